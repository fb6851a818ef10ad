"""``python -m snapshot list`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import typer

from snapshot.cli import (
    DEFAULT_REGISTRY,
    IdArgument,
    JsonOption,
    RegistryOption,
    age,
    age_seconds,
    print_json,
    print_table,
    size,
)
from snapshot.errors import RegistryError
from snapshot.leases import is_held
from snapshot.manifest import Manifest, Retention
from snapshot.registry import Registry

_SPACE_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class _State:
    """How the registry stands to one of its snapshots; ``serving`` is whether somebody holds a lease on it."""

    desired: bool
    serving: bool
    pinned: bool
    signed: bool


def list_snapshots(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Every snapshot, the latest last: age, documents, space, size, retention, and what is desired and served."""
    source = Registry(registry)
    desired, fault = _desired(source)
    rows = [(manifest, _state(source, manifest.id, desired)) for manifest in source.manifests()]
    unreadable = source.unreadable()
    if as_json:
        listed = [_described(manifest, state) for manifest, state in rows]
        print_json({"desired": desired, "desired_error": fault, "snapshots": listed, "unreadable": unreadable})
        return
    if not rows and not unreadable:
        typer.echo(f"{registry}: no snapshots; publish one with: python -m offline run RECIPE --registry {registry}")
        return
    headings = ("", "id", "name", "age", "documents", "index", "space", "size", "retention", "desired", "serving")
    cells = [_cells(manifest, state) for manifest, state in rows]
    print_table(headings, [*cells, *(("!", one, reason) for one, reason in unreadable.items())])
    typer.echo(_legend(desired, fault, pinned=any(state.pinned for _, state in rows)))


def show(snapshot_id: IdArgument, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """One snapshot: what it is made of, its effort table and its retention."""
    source = Registry(registry)
    manifest = source.read(snapshot_id)
    state = _state(source, snapshot_id, _desired(source)[0])
    if as_json:
        print_json({**manifest.model_dump(mode="json", exclude={"files"}), **_named(state), "bytes": total_bytes(manifest)})
        return
    print_table(("", ""), _facts(manifest, state), title=snapshot_id)
    efforts = [
        (f"{row.effort}{' (default)' if row.effort == manifest.index.default_effort else ''}", f"{row.recall_at_10:.4f}",
         f"{row.p50_ms:.3f}", f"{row.p99_ms:.3f}")
        for row in manifest.index.efforts
    ]  # fmt: skip
    print_table(("effort", "recall@10", "p50 ms", "p99 ms"), efforts, title="effort table")
    columns = [(column.name, column.type, "yes" if column.filterable else "") for column in manifest.documents.columns]
    print_table(("column", "type", "filterable"), columns, title="documents")


def total_bytes(manifest: Manifest) -> int:
    """Of all files that the manifest lists."""
    return sum(entry.bytes for entry in manifest.files.values())


def retained(retention: Retention | None) -> str:
    """For people: the share kept, with its interval."""
    if retention is None:
        return "not measured"
    return f"{retention.retained:.1%} ({retention.low:.1%} to {retention.high:.1%}) of {retention.metric}"


def _desired(registry: Registry) -> tuple[str | None, str | None]:
    """What CURRENT says, or why it says nothing: looking must work then more than ever."""
    try:
        return registry.current(), None
    except RegistryError as error:
        return None, str(error)


def _state(registry: Registry, snapshot_id: str, desired: str | None) -> _State:
    layout = registry.layout(snapshot_id)
    return _State(
        desired=snapshot_id == desired,
        serving=is_held(layout.root),
        pinned=snapshot_id in registry.pins(),
        signed=layout.signature.is_file(),
    )


def _named(state: _State) -> dict[str, bool]:
    return {name: getattr(state, name) for name in state.__slots__}


def _described(manifest: Manifest, state: _State) -> dict[str, object]:
    return {
        "id": manifest.id,
        "name": manifest.name,
        "created_at": manifest.created_at.isoformat(),
        "age_seconds": round(age_seconds(manifest.created_at), 1),
        "parent": manifest.parent,
        "documents": manifest.documents.count,
        "index": manifest.index.kind,
        "tower": {"layers": manifest.query_tower.layers, "precision": manifest.query_tower.precision},
        "space": manifest.space.fingerprint,
        "bytes": total_bytes(manifest),
        "retention": manifest.retention.retained if manifest.retention else None,
        **_named(state),
    }


def _cells(manifest: Manifest, state: _State) -> tuple[str, ...]:
    marks = "*" * state.desired + "p" * state.pinned
    share = f"{manifest.retention.retained:.1%}" if manifest.retention else "not measured"
    return (
        marks,
        manifest.id,
        manifest.name,
        age(age_seconds(manifest.created_at)),
        f"{manifest.documents.count:,}",
        manifest.index.kind,
        manifest.space.fingerprint[:_SPACE_CHARACTERS],
        size(total_bytes(manifest)),
        share,
        "yes" if state.desired else "",
        "yes" if state.serving else "",
    )


def _legend(desired: str | None, fault: str | None, *, pinned: bool) -> str:
    if fault:
        return f"nothing is desired: {fault}"
    if desired is None:
        return "nothing is desired; activate one with: python -m snapshot activate ID"
    return f"* desired ({desired}){'; p pinned' if pinned else ''}"


def _facts(manifest: Manifest, state: _State) -> Iterator[tuple[str, object]]:
    tower, index, golden = manifest.query_tower, manifest.index, manifest.golden
    yield "name", manifest.name
    yield "created", f"{manifest.created_at.isoformat()} ({age(age_seconds(manifest.created_at))} ago)"
    yield "parent", manifest.parent or "none"
    yield "state", ", ".join(name for name, holds in _named(state).items() if holds) or "published"
    yield "documents", f"{manifest.documents.count:,}"
    yield "size", f"{size(total_bytes(manifest))} in {len(manifest.files)} files"
    yield "space", f"{manifest.space.fingerprint} ({manifest.space.dim} dimensions, {manifest.space.metric})"
    yield "query tower", f"{tower.layers} layers, {tower.parameters:,} parameters, {tower.precision}. {tower.reason}"
    yield "index", f"{index.kind}. {index.reason}"
    yield "golden set", f"{golden.queries} queries, recall@{golden.k} at least {golden.min_recall:.3f}"
    yield "retention", retained(manifest.retention)
    yield "built with", ", ".join(f"{name} {version}" for name, version in manifest.build.items()) or "unknown"
