"""``python -m snapshot``: look at a registry and say what should be served."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from snapshot import cli_diff, cli_fleet, cli_look, cli_remote, cli_trust
from snapshot.cli import (
    DEFAULT_REGISTRY,
    IdArgument,
    JsonOption,
    RegistryOption,
    WhyOption,
    existing,
    print_json,
    print_table,
    size,
)
from snapshot.errors import FleetError, RegistryError, SnapshotError
from snapshot.history import happened
from snapshot.manifest import Manifest
from snapshot.printable import escape_what_cannot_be_printed, printable
from snapshot.registry import Registry
from snapshot.schema import render_markdown

_WRONG_USE = 2
_EXIT_CODES = (
    "Exit codes: 0 done; 1 the gate refuses it (verify --deep), or services differ (fleet); 2 an error, said in one line, "
    "or wrong usage."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, epilog=_EXIT_CODES)

ForceOption = Annotated[bool, typer.Option("--force", help="Serve it whatever the service's gate finds; needs --why.")]
KeepOption = Annotated[int, typer.Option("--keep", min=0, help="How many of the latest snapshots to keep.")]
WaveOption = Annotated[
    str | None,
    typer.Option(
        "--wave",
        metavar="1,25%,100%",
        help="In waves over the services named: so many, then more, at last all; stops at the first failure.",
    ),
]
TokenFileOption = Annotated[Path | None, typer.Option("--token-file", help="File with an operator's token, for --wave.")]
WaitOption = Annotated[float, typer.Option("--wait", min=1, help="Seconds that a service may take to serve it, for --wave.")]
WatchOption = Annotated[
    float, typer.Option("--watch", min=0, help="Seconds that each wave is watched before the next, for --wave.")
]
RemoteOption = Annotated[
    str | None,
    typer.Option("--remote", metavar="URL", help="With --wave: declare it in this registry, which the services follow."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]

app.command("list")(cli_look.list_snapshots)
app.command("show")(cli_look.show)
app.command("verify")(cli_trust.verify_snapshot)
app.command("diff")(cli_diff.diff)
app.command("fleet")(cli_fleet.fleet)
app.command("push")(cli_remote.push)
app.command("pull")(cli_remote.pull)


@app.command()
def activate(
    snapshot_id: IdArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    why: WhyOption = "",
    force: ForceOption = False,
    wave: WaveOption = None,
    service: Annotated[list[str] | None, typer.Option("--service", metavar="URL", help="As of fleet, for --wave.")] = None,
    token_file: TokenFileOption = None,
    wait: WaitOption = 600.0,
    watch: WatchOption = 60.0,
    remote: RemoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Declare the snapshot that should be served. Services that follow the registry swap to it by themselves."""
    if wave is not None:
        options = cli_fleet.WaveOptions(wave, service or [], token_file, wait, watch, remote)
        cli_fleet.activate_in_waves(snapshot_id, registry, why, options, force=force)
        if as_json:
            print_json({"desired": snapshot_id, "forced": force})
        return
    if service or remote or token_file:
        raise FleetError("--service, --token-file and --remote are of --wave; name the waves too, as in: --wave 1,100%")
    manifest = Registry(registry).activate(snapshot_id, why, force=force)
    _say_desire(manifest, "now", as_json, forced=force)


@app.command()
def rollback(
    registry: RegistryOption = DEFAULT_REGISTRY, why: WhyOption = "", force: ForceOption = False, as_json: JsonOption = False
) -> None:
    """Declare the snapshot that was desired before; by force if it last was so, or with --force."""
    source = Registry(registry)
    manifest = source.rollback(why, force=force)
    desire = source.desired()
    _say_desire(manifest, "again", as_json, forced=desire is not None and desire.forced)


@app.command()
def pin(
    snapshot_id: IdArgument, registry: RegistryOption = DEFAULT_REGISTRY, why: WhyOption = "", as_json: JsonOption = False
) -> None:
    """Keep a snapshot from being removed by gc."""
    source = Registry(registry)
    source.pin(snapshot_id, why)
    _say_pins(source, f"{snapshot_id} is pinned", as_json)


@app.command()
def unpin(
    snapshot_id: IdArgument, registry: RegistryOption = DEFAULT_REGISTRY, why: WhyOption = "", as_json: JsonOption = False
) -> None:
    """Let gc remove a snapshot again."""
    source = existing(registry)
    source.unpin(snapshot_id, why)
    _say_pins(source, f"{snapshot_id} is not pinned", as_json)


@app.command()
def gc(
    keep: KeepOption, registry: RegistryOption = DEFAULT_REGISTRY, dry_run: DryRunOption = False, as_json: JsonOption = False
) -> None:
    """Remove old snapshots, but never those that are desired, open in a service, pinned, or where a rollback would go."""
    collected = existing(registry).gc(keep, dry_run)
    if as_json:
        print_json(asdict(collected))
        return
    verb = "would be removed" if dry_run else "removed"
    rows = [(one, verb) for one in collected.removed]
    print_table(("id", "what and why"), [*rows, *((one, f"kept: {', '.join(why)}") for one, why in collected.kept.items())])
    clean = "would clean up" if dry_run else "cleaned up"
    left = f"; {clean} after {collected.leftovers} killed commands" if collected.leftovers else ""
    typer.echo(f"{len(rows)} {verb}, {size(collected.freed_bytes)}{left}")


@app.command()
def history(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Who published and activated what, when and why, and what came of it; the latest last."""
    source = existing(registry)
    events = source.history()
    effects = list(happened(events, source.found()))
    if as_json:
        print_json([{**asdict(event), "took_effect": effect} for event, effect in zip(events, effects, strict=True)])
        return
    rows = [
        (
            event.at,
            event.who,
            event.action + (", forced" if event.forced else ""),
            event.snapshot,
            event.previous or "",
            event.why,
            event.outcome or ("" if effect else "never took effect"),
        )
        for event, effect in zip(events, effects, strict=True)
    ]
    print_table(("at", "who", "action", "id", "before", "why", "outcome"), rows)


@app.command()
def schema(as_json: JsonOption = False) -> None:
    """The snapshot format as Markdown, or the manifest's JSON Schema."""
    if as_json:
        print_json(Manifest.model_json_schema())
    else:
        typer.echo(render_markdown(), nl=False)


app.command("keygen")(cli_trust.keygen)
app.command("sign")(cli_trust.sign)


def _say_desire(manifest: Manifest, when: str, as_json: bool, *, forced: bool) -> None:
    if as_json:
        print_json({"desired": manifest.id, "forced": forced})
    else:
        typer.echo(f"{manifest.id} is desired {when}; see what is served with: curl -s localhost:8000/info")


def _say_pins(registry: Registry, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"pins": sorted(registry.pins())})
    else:
        typer.echo(text)


def main() -> None:
    """Run the command line; an error is one line on standard error and exit code 2, with --json also an object."""
    escape_what_cannot_be_printed()
    try:
        _run()
    except SnapshotError as error:
        _fail(error)
    except OSError as error:  # of a disk or a mount, while something was read
        _fail(RegistryError(f"{error.filename or 'the registry'}: {error.strerror or error}; check the file and its owner"))


def _run() -> NoReturn:
    """Typer says wrong usage to people, in boxes; to machines it is one object, as every error is."""
    if not _for_machines():
        app()
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        reason = f"{error.format_message()} See: python -m snapshot --help"
        print_json({"error": {"code": "usage", "reason": reason}})
        typer.echo(f"error: {printable(reason)}", err=True)
        code = _WRONG_USE
    except Abort:
        code = 1
    sys.exit(code or 0)


def _for_machines() -> bool:
    return "--json" in sys.argv


def _fail(error: SnapshotError) -> NoReturn:
    if _for_machines():
        print_json({"error": {"code": error.code, "reason": str(error)}})
    typer.echo(f"error: {printable(str(error))}", err=True)
    sys.exit(_WRONG_USE)


if __name__ == "__main__":
    main()
