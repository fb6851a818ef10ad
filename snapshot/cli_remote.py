"""``python -m snapshot push`` and ``pull``: between this registry and one in an object store, or in another folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from snapshot import remote
from snapshot.cli import DEFAULT_REGISTRY, JsonOption, RegistryOption, WhyOption, existing, print_json, size
from snapshot.errors import ReasonMissingError, RemoteAddressError
from snapshot.progress import Progress
from snapshot.pull import Pulled, PullOptions
from snapshot.push import Pushed, PushOptions
from snapshot.registry import Registry
from snapshot.signing import Trust

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="s3://BUCKET/PREFIX, gs://…, az://… or a folder.")]
ActivateOption = Annotated[bool, typer.Option("--activate", help="Declare the snapshot as the one to serve, last of all.")]
ForceOption = Annotated[bool, typer.Option("--force", help="With --activate: serve it whatever the gate finds; needs --why.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="What is there may be damaged: send every file, or those of a folder that are.")
]
_LINE_SECONDS = 10.0


def push(
    what: Annotated[
        list[str], typer.Argument(metavar="[ID]... URL", help="Which ones (the desired one, unless named), and where to.")
    ],
    registry: RegistryOption = DEFAULT_REGISTRY,
    activate: ActivateOption = False,
    force: ForceOption = False,
    why: WhyOption = "",
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Send every file, also those that are there already; a folder mends those that are damaged."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring snapshots into a remote registry: what differs travels, the manifest goes last.

    Endpoint, region and credentials come from the usual variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, …); a store without TLS also needs AWS_ALLOW_HTTP=true.
    """
    *ids, url = what
    _check_url(url, ids)
    _check_force(activate=activate, force=force, why=why)
    with progress_to(sys.stderr) as progress:
        done = remote.push(existing(registry), url, ids, PushOptions(again, progress))
    last = done[-1].manifest.id
    if activate:
        remote.Remote(url).activate(last, why, force=force)
    if as_json:
        print_json([_described(one, url) for one in done])
        return
    for one in done:
        how = f"{size(one.sent_bytes)} sent, {size(one.copied_bytes)} copied there, {size(one.kept_bytes)} were there"
        typer.echo(f"pushed {one.manifest.id} to {url} ({len(one.manifest.files)} files: {how})")
    if activate:
        typer.echo(f"{last} is desired in {url} now; elsewhere: python -m snapshot pull {url} --registry REGISTRY --activate")
    else:
        again_there = f"python -m snapshot push {last} {url} --registry {registry} --activate"
        typer.echo(f"next, make it the desired one there: {again_there}")


def pull(
    url: UrlArgument,
    snapshot_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Unless named, the one desired there.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    activate: ActivateOption = False,
    force: ForceOption = False,
    why: WhyOption = "",
    key: Annotated[
        list[Path] | None, typer.Option("--key", help="Public key of those who may publish; what none of them signed is refused.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a snapshot from a remote registry into this one: what differs travels, hashes are checked, a kill loses nothing.

    One that is here already is mended where it is damaged.

    Endpoint, region and credentials come from the usual variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, …); a store without TLS also needs AWS_ALLOW_HTTP=true.
    """
    _check_force(activate=activate, force=force, why=why)
    trust = Trust.load(key, required=True) if key else None
    target = Registry(registry)
    with progress_to(sys.stderr) as progress:
        [done] = remote.pull(url, target, [snapshot_id] if snapshot_id else [], PullOptions(trust, progress, mend=True))
    pulled = done.manifest.id
    if activate:
        target.activate(pulled, why or f"pulled from {url}", force=force)
    if as_json:
        print_json(_described(done, str(registry)))
        return
    fetched, linked, resumed = size(done.fetched_bytes), size(done.linked_bytes), size(done.resumed_bytes)
    how = f"{len(done.manifest.files)} files: {fetched} fetched, {linked} linked, {resumed} from an earlier attempt"
    what = f"pulled {pulled} into {registry / pulled} ({how if done.new else 'it was there already'})"
    if activate:
        typer.echo(f"{what}; it is desired now; see what is served with: curl -s localhost:8000/info")
    else:
        typer.echo(f"{what}; next: python -m snapshot activate {pulled} --registry {registry}")


def _check_url(url: str, ids: list[str]) -> None:
    """Somebody may have forgotten the URL, and named an id last."""
    if "://" not in url and "/" not in url and not Path(url).exists():
        named = " ".join([*ids, url])
        raise RemoteAddressError(f"{url}: no URL and no folder; write: python -m snapshot push {named} s3://BUCKET/PREFIX")


def _check_force(*, activate: bool, force: bool, why: str) -> None:
    """Before anything travels."""
    if force and not (activate and why.strip()):
        raise ReasonMissingError("--force overrules the gate and needs --activate and a reason; say it with: --why TEXT")


def _described(done: Pushed | Pulled, where: str) -> dict[str, object]:
    files = done.manifest.files
    total = sum(entry.bytes for entry in files.values())
    counted = {name: getattr(done, name) for name in done.__slots__ if name != "manifest"}
    return {"id": done.manifest.id, "where": where, "files": len(files), "bytes": total, **counted}


@contextmanager
def progress_to(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A bar where people watch, a line now and then where a log is written."""
    if not stream.isatty():
        yield Lines(stream, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(file=stream)) as bar:
        yield _Bars(bar)


class _Bars:
    """Progress as a bar for each transfer."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, what: str, total_bytes: int) -> None:
        self._task = self._bar.add_task(what, total=total_bytes)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)


class Lines:
    """Progress as a line every ten seconds, and one at the end of what travelled."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._what = ""
        self._total = self._done = 0
        self._begun = self._said = clock()

    def begin(self, what: str, total_bytes: int) -> None:
        self._what, self._total, self._done = what, total_bytes, 0
        self._begun = self._said = self._clock()
        if total_bytes:
            self._say(f"{what}: {size(total_bytes)} to transfer")

    def advance(self, count: int) -> None:
        self._done += count
        now = self._clock()
        if now - self._said >= _LINE_SECONDS or self._done == self._total:
            self._said = now
            speed = self._done / max(now - self._begun, 1e-3)
            left = (self._total - self._done) / max(speed, 1.0)
            share = self._done / max(self._total, 1)
            self._say(
                f"{self._what}: {size(self._done)} of {size(self._total)} ({share:.0%}), {size(int(speed))}/s, {left:.0f} s left"
            )

    def _say(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()
