"""``python -m snapshot``: look at a registry and say what should be served."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from snapshot.errors import SnapshotError
from snapshot.manifest import Manifest
from snapshot.registry import Registry
from snapshot.schema import render_markdown
from snapshot.verify import verify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RegistryOption = Annotated[Path, typer.Option("--registry", envvar="SCALINGNOTE_REGISTRY", help="Folder of snapshots.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
WhyOption = Annotated[str, typer.Option(help="Why; kept in history.jsonl.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A snapshot's id, from: python -m snapshot list")]
_DEFAULT_REGISTRY = Path("registry")


@app.command("list")
def list_snapshots(registry: RegistryOption = _DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Every snapshot: age, documents, index, retention, and which one is desired."""
    source = Registry(registry)
    desired = source.current()
    manifests = source.manifests()
    unreadable = source.unreadable()
    if as_json:
        rows = [{**_row(manifest), "desired": manifest.id == desired} for manifest in manifests]
        _print_json({"desired": desired, "snapshots": rows, "unreadable": unreadable})
        return
    if not manifests and not unreadable:
        typer.echo(f"{registry}: no snapshots; publish one with: python -m offline run RECIPE --registry {registry}")
        return
    table = Table("", "id", "name", "age", "documents", "index", "tower", "size", "retention")
    for manifest in manifests:
        table.add_row("*" if manifest.id == desired else "", *(str(value) for value in _row(manifest).values()))
    for snapshot_id, reason in unreadable.items():
        table.add_row("!", snapshot_id, reason)
    Console().print(table)
    typer.echo("* desired" if desired else "nothing is desired; activate one with: python -m snapshot activate ID")


@app.command()
def show(snapshot_id: IdArgument, registry: RegistryOption = _DEFAULT_REGISTRY) -> None:
    """The manifest of one snapshot, without its list of files."""
    manifest = Registry(registry).read(snapshot_id)
    _print_json(manifest.model_dump(mode="json", exclude={"files"}))


@app.command("verify")
def verify_snapshot(snapshot_id: IdArgument, registry: RegistryOption = _DEFAULT_REGISTRY) -> None:
    """Check schema, files, sizes, hashes and counts of one snapshot."""
    manifest = verify(Registry(registry).layout(snapshot_id).root)
    typer.echo(f"{manifest.id}: intact ({len(manifest.files)} files, {_size(manifest)}, {manifest.documents.count} documents)")


@app.command()
def activate(snapshot_id: IdArgument, registry: RegistryOption = _DEFAULT_REGISTRY, why: WhyOption = "") -> None:
    """Declare the snapshot that should be served. Services that follow the registry swap to it by themselves."""
    manifest = Registry(registry).activate(snapshot_id, why)
    typer.echo(f"{manifest.id} is desired now; see what is served with: curl -s localhost:8000/info")


@app.command()
def rollback(registry: RegistryOption = _DEFAULT_REGISTRY, why: WhyOption = "") -> None:
    """Declare the snapshot that was desired before."""
    manifest = Registry(registry).rollback(why)
    typer.echo(f"{manifest.id} is desired again; see what is served with: curl -s localhost:8000/info")


@app.command()
def history(registry: RegistryOption = _DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Who published and activated what, when and why; the latest last."""
    events = Registry(registry).history()
    if as_json:
        _print_json([{name: getattr(event, name) for name in event.__slots__} for event in events])
        return
    table = Table("at", "who", "action", "snapshot", "before", "why")
    for event in events:
        table.add_row(event.at, event.who, event.action, event.snapshot, event.previous or "", event.why)
    Console().print(table)


@app.command()
def schema(as_json: JsonOption = False) -> None:
    """The snapshot format as Markdown, or the manifest's JSON Schema."""
    if as_json:
        _print_json(Manifest.model_json_schema())
    else:
        typer.echo(render_markdown(), nl=False)


def _row(manifest: Manifest) -> dict[str, object]:
    retained = manifest.retention
    return {
        "id": manifest.id,
        "name": manifest.name,
        "age": _age((datetime.now(UTC) - manifest.created_at).total_seconds()),
        "documents": manifest.documents.count,
        "index": manifest.index.kind,
        "tower": f"{manifest.query_tower.layers} layers {manifest.query_tower.precision}",
        "size": _size(manifest),
        "retention": f"{retained.retained:.1%}" if retained else "not measured",
    }


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(manifest: Manifest) -> str:
    return f"{sum(entry.bytes for entry in manifest.files.values()) / 1e6:.1f} MB"


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, default=str))


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 2."""
    try:
        app()
    except SnapshotError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
