"""``python -m snapshot list`` and ``show``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from snapshot.cli import (
    DEFAULT_REGISTRY,
    IdArgument,
    JsonOption,
    RegistryOption,
    age,
    age_seconds,
    existing,
    print_json,
    print_table,
    size,
)
from snapshot.errors import RegistryError, UnknownSnapshotError
from snapshot.history import last_served
from snapshot.layout import Layout
from snapshot.leases import is_held
from snapshot.manifest import Manifest, Retention
from snapshot.printable import printable
from snapshot.registry import Registry

_SPACE_CHARACTERS = 12
_OPEN = "open: a service keeps it open, as the one before or as one that is tried; each of them says: python -m snapshot fleet"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _State:
    """How the registry stands to one of its snapshots.

    ``open`` is whether somebody holds a lease on it: a service that serves it, or that keeps it as the one before. Which of
    the two, a lease does not say; it is ``serving`` where a service also said so last in the history.
    """

    desired: bool
    serving: bool
    open: bool
    pinned: bool
    signed: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What CURRENT, PINS and the history say, or why they say nothing: looking must work then more than ever."""

    desired: str | None
    fault: str | None
    pins: frozenset[str]
    pins_fault: str | None
    served: frozenset[str]


def list_snapshots(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Every snapshot, the latest last: age, documents, space, size, retention, what is desired, and what serves."""
    source = existing(registry)
    wanted = _wanted(source)
    states = ((manifest, _state(source, manifest.id, wanted)) for manifest in source.manifests())
    rows = [(manifest, state) for manifest, state in states if state is not None]
    unreadable = source.unreadable()
    if as_json:
        listed = [_described(manifest, state) for manifest, state in rows]
        errors = {"desired_error": wanted.fault, "pins_error": wanted.pins_fault}
        print_json({"desired": wanted.desired, **errors, "snapshots": listed, "unreadable": unreadable})
        return
    if not rows and not unreadable:
        typer.echo(f"{registry}: no snapshots; publish one with: python -m offline run RECIPE --registry {registry}")
        return
    headings = ("", "id", "name", "age", "documents", "index", "space", "size", "retention", "desired", "serving")
    cells = [_cells(manifest, state) for manifest, state in rows]
    print_table(headings, [*cells, *(("!", one, reason) for one, reason in unreadable.items())])
    typer.echo(printable(_legend(registry, wanted, pinned=any(state.pinned for _, state in rows))))
    if any(state.open and not state.serving for _, state in rows):
        typer.echo(_OPEN)
    _say_pins(wanted)


def show(snapshot_id: IdArgument, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """One snapshot: what it is made of, its effort table and its retention."""
    source = Registry(registry)
    manifest = source.read(snapshot_id)
    wanted = _wanted(source)
    state = _state(source, snapshot_id, wanted)
    if state is None:
        see = f"python -m snapshot list --registry {registry}"
        raise UnknownSnapshotError(f"{registry}: {snapshot_id} was removed at this moment; see: {see}")
    if as_json:
        errors = {"desired_error": wanted.fault, "pins_error": wanted.pins_fault}
        content = manifest.model_dump(mode="json", exclude={"files"})
        print_json({**content, **_holding(state), **errors, "bytes": total_bytes(manifest)})
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
    if wanted.fault:
        typer.echo(printable(f"what is desired cannot be told: {wanted.fault}"))
    _say_pins(wanted)


def total_bytes(manifest: Manifest) -> int:
    """Of all files that the manifest lists."""
    return sum(entry.bytes for entry in manifest.files.values())


def retained(retention: Retention | None) -> str:
    """For people: the share kept, with its interval."""
    if retention is None:
        return "not measured"
    return f"{retention.retained:.1%} ({retention.low:.1%} to {retention.high:.1%}) of {retention.metric}"


def _wanted(registry: Registry) -> _Wanted:
    desired, fault = _or_fault(registry.current)
    pins, pins_fault = _or_fault(registry.pins)
    events, _ = _or_fault(registry.history)
    return _Wanted(desired, fault, pins or frozenset(), pins_fault, frozenset(last_served(events or ())))


def _or_fault(read: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return read(), None
    except RegistryError as error:
        return None, str(error)


def _state(registry: Registry, snapshot_id: str, wanted: _Wanted) -> _State | None:
    """None where gc has removed it at this moment."""
    layout = Layout(registry.root / snapshot_id)
    held = is_held(layout.root)
    if not layout.root.is_dir():
        return None
    return _State(
        desired=snapshot_id == wanted.desired,
        serving=held and snapshot_id in wanted.served,
        open=held,
        pinned=snapshot_id in wanted.pins,
        signed=layout.signature.is_file(),
    )


def _say_pins(wanted: _Wanted) -> None:
    if wanted.pins_fault:
        typer.echo(printable(f"what is pinned cannot be told: {wanted.pins_fault}"))


def _holding(state: _State) -> dict[str, bool]:
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
        **_holding(state),
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
        "yes" if state.serving else "open" if state.open else "",
    )


def _legend(registry: Path, wanted: _Wanted, *, pinned: bool) -> str:
    if wanted.fault:
        return f"nothing is desired: {wanted.fault}"
    if wanted.desired is None:
        return f"nothing is desired; activate one with: python -m snapshot activate ID --registry {registry}"
    return f"* desired ({wanted.desired}){'; p pinned' if pinned else ''}"


def _facts(manifest: Manifest, state: _State) -> Iterator[tuple[str, object]]:
    tower, index, golden = manifest.query_tower, manifest.index, manifest.golden
    yield "name", manifest.name
    yield "created", f"{manifest.created_at.isoformat()} ({age(age_seconds(manifest.created_at))} ago)"
    yield "parent", manifest.parent or "none"
    yield "state", ", ".join(name for name, holds in _holding(state).items() if holds) or "published"
    yield "documents", f"{manifest.documents.count:,}"
    yield "size", f"{size(total_bytes(manifest))} in {len(manifest.files)} files"
    yield "space", f"{manifest.space.fingerprint} ({manifest.space.dim} dimensions, {manifest.space.metric})"
    yield "query tower", f"{tower.layers} layers, {tower.parameters:,} parameters, {tower.precision}. {tower.reason}"
    yield "index", f"{index.kind}. {index.reason}"
    yield "golden set", f"{golden.queries} queries, recall@{golden.k} at least {golden.min_recall:.3f}"
    yield "retention", retained(manifest.retention)
    yield "built with", ", ".join(f"{name} {version}" for name, version in manifest.build.items()) or "unknown"
