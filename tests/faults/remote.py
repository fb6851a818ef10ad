"""An object store that is slow, flaky or gone; a pull that is killed at every step, or finds its disk full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from chaos import Chaos, chaos_before
from object_stores import S3, moto

from snapshot.registry import Registry
from snapshot.verify import verify
from tests.faults.disks import fill, mounted
from tests.faults.fault import Fault
from tests.faults.killed import Doing, at_every_step, remove
from tests.faults.searches import Searches
from tests.faults.stage import Stage, check, command, serving
from tests.faults.toys import FORMER, OTHER
from tests.live import Live, until

_URL = "s3://bucket/faults"
_GONE = "remote_unavailable"
_DELAY_SECONDS = 0.02
_RESETS, _CUTS = 5, 4
_SMALL = "size=1m,nr_inodes=200"
_NOTICE_SECONDS = 150.0
"""A store is tried again for a minute before it is called gone."""
_FOLLOW = ("--remote-registry", _URL, "--remote-interval-seconds", "0.5")


@dataclass(frozen=True)
class _Store:
    """A real S3 server, a proxy before it, and the other snapshot in it."""

    server: S3
    chaos: Chaos
    stage: Stage

    def command(self, *arguments: str, registry: Registry) -> str:
        """``python -m snapshot`` through the proxy, which must succeed."""
        ended = command(*arguments, "--registry", str(registry.root), environment=self.variables)
        return ended.done(arguments[0])

    @property
    def variables(self) -> dict[str, str]:
        return self.server.variables(self.chaos.port)


def faults() -> list[Fault]:
    spoilt = {"slow": _slow, "flaky": _flaky, "cut_off": _cut}
    return [
        *(Fault(f"object_store_{name}", "survived", partial(_got_along, spoil=spoil)) for name, spoil in spoilt.items()),
        Fault("object_store_gone", "refused", partial(_gone, spoil=_vanish)),
        Fault("object_store_silent", "refused", partial(_gone, spoil=_fall_silent)),
        Fault("object_store_gone_while_followed", "survived", partial(_followed, spoil=_vanish)),
        Fault("object_store_silent_while_followed", "survived", partial(_followed, spoil=_fall_silent)),
        Fault("killed_pull", "survived", _killed_pull),
        Fault("disk_full_while_pulling", "survived", _full_pull),
    ]


def _slow(chaos: Chaos) -> None:
    chaos.delay_seconds = _DELAY_SECONDS


def _flaky(chaos: Chaos) -> None:
    chaos.reset_first = _RESETS


def _cut(chaos: Chaos) -> None:
    chaos.truncate_first = _CUTS


def _vanish(chaos: Chaos) -> None:
    chaos.gone = True


def _fall_silent(chaos: Chaos) -> None:
    chaos.black_hole = True


@contextmanager
def _store(stage: Stage) -> Iterator[_Store]:
    with moto() as server, chaos_before(server.port) as chaos:
        yield _Store(server, chaos, stage)


@contextmanager
def _filled(stage: Stage) -> Iterator[_Store]:
    """With the former and the other in it; the other is what is wanted there."""
    with _store(stage) as store:
        stage.registry.publish(stage.other.root, who="tests")
        for snapshot_id in (stage.former, stage.other.root.name):
            store.command("push", snapshot_id, _URL, "--activate", "--why", "a fault", registry=stage.registry)
        yield store


def _got_along(stage: Stage, spoil: Callable[[Chaos], None]) -> str:
    """Pushed and pulled by the commands all the same."""
    snapshot_id = stage.other.root.name
    stage.registry.publish(stage.other.root, who="tests")
    target = Registry(stage.folder / "pulled")
    with _store(stage) as store:
        spoil(store.chaos)
        store.command("push", snapshot_id, _URL, registry=stage.registry)
        spoil(store.chaos)
        store.command("pull", _URL, snapshot_id, registry=target)
        verify(target.root / snapshot_id)
        return f"pushed and pulled with {len(store.chaos.requests)} requests"


def _gone(stage: Stage, spoil: Callable[[Chaos], None]) -> str:
    """Both commands say so, and leave nothing half."""
    target = Registry(stage.folder / "pulled")
    with _filled(stage) as store:
        spoil(store.chaos)
        begun = time.monotonic()
        pull = command("pull", _URL, "--registry", str(target.root), environment=store.variables)
        said = pull.refused("pull from a store that is gone")
        took = time.monotonic() - begun
        check(target.ids() == [], f"a store that is gone left {target.ids()}")
        store.chaos.gone = store.chaos.black_hole = False
        store.command("pull", _URL, registry=target)
        verify(target.root / stage.other.root.name)
    return f"after {took:.0f} s: {said}"


def _followed(stage: Stage, spoil: Callable[[Chaos], None]) -> str:
    """A service that follows the store serves on while it is away, says why it does not follow, and follows when it is back."""
    former, other = stage.former, stage.other.root.name
    local = Registry(stage.folder / "local")
    with _filled(stage) as store, _following(stage, store, local) as live:
        until(live, lambda: live.ready() and live.get("/info")[1]["serving"] == other, f"{other} serving")
        with Searches(live.port, {former: FORMER, other: OTHER}) as searches:
            spoil(store.chaos)
            found = until(live, lambda: _remote_error(live), "complaining", _NOTICE_SECONDS)
            check(found.startswith(_GONE), f"it says {found}")
            searches.wait_for_more(20)
            store.chaos.gone = store.chaos.black_hole = False
            directly = {**store.server.variables()}
            ended = command("push", former, _URL, "--activate", "--registry", str(stage.registry.root), environment=directly)
            ended.done("push past the proxy")
            until(live, lambda: live.get("/info")[1]["serving"] == former, f"{former} serving", _NOTICE_SECONDS)
            searches.wait_for_more()
        check(not searches.failures, f"searches failed: {searches.failures[:3]}")
    return str(found)


@contextmanager
def _following(stage: Stage, store: _Store, local: Registry) -> Iterator[Live]:
    with serving(stage.folder, local.root, *_FOLLOW, environment=store.variables) as live:
        yield live


def _remote_error(live: Live) -> str | None:
    """What ``/info`` says is wrong with the store, if anything."""
    remote = live.get("/info")[1]["remote"]
    return f"{remote['code']}: {remote['reason']}" if remote["code"] else None


def _killed_pull(stage: Stage) -> str:
    """Killed before each step; the next pull goes on, and nothing half is ever listed."""
    target = Registry(stage.folder / "pulled")
    with _filled(stage) as store:
        doing = Doing(target, "pull", _URL, store.variables)
        undo = partial(remove, target, stage.other.root.name)
        return at_every_step(doing, undo, lambda: stage.serves(stage.former), thorough=stage.thorough)


def _full_pull(stage: Stage) -> str:
    with _filled(stage) as store, mounted(stage.folder / "disk", "-t", "tmpfs", "-o", _SMALL, "tmpfs") as disk:
        target = Registry(disk / "registry")
        target.root.mkdir()
        fill(disk)
        ended = command("pull", _URL, "--registry", str(target.root), environment=store.variables)
        said = ended.refused("pull onto a full disk")
        check(target.ids() == [], f"a full disk left {target.ids()}")
        check("full" in said or "space" in said or "room" in said, f"it does not say that the disk is full: {said}")
        (disk / "filler.bin").unlink()
        return said
