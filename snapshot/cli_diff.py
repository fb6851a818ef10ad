"""``python -m snapshot diff``: what would change, before it is activated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from snapshot.cli import DEFAULT_REGISTRY, JsonOption, RegistryOption, print_json, print_table, size
from snapshot.cli_look import retained, total_bytes
from snapshot.diff import Diff, compare
from snapshot.manifest import Manifest
from snapshot.printable import printable
from snapshot.registry import Registry

BeforeArgument = Annotated[str, typer.Argument(metavar="A", help="The older one's id.")]
AfterArgument = Annotated[str, typer.Argument(metavar="B", help="The newer one's id.")]


def diff(
    before: BeforeArgument, after: AfterArgument, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False
) -> None:
    """What changes from A to B: documents, golden hits, size, effort table, retention."""
    source = Registry(registry)
    found = compare(source.layout(before), source.layout(after))
    if as_json:
        print_json(_described(found))
        return
    print_table(("", f"A: {before}", f"B: {after}", "change"), _rows(found))
    print_table(("effort", "A recall@10", "B recall@10", "A p99 ms", "B p99 ms"), _efforts(found), title="effort table")
    for what, ids in found.documents.examples.items():
        if ids:
            typer.echo(printable(f"{what}, for example: {', '.join(ids)}"))  # ids are anybody's
    for name, change in found.documents.columns.items():
        typer.echo(printable(f"column {name}: {change}"))


def _described(found: Diff) -> dict[str, object]:
    return {
        "before": found.before.id,
        "after": found.after.id,
        "documents": asdict(found.documents),
        "overlap": asdict(found.overlap),
        "bytes": {"before": total_bytes(found.before), "after": total_bytes(found.after)},
        "same": found.parts,
        "efforts": {name: [row.model_dump() for row in one.index.efforts] for name, one in _both(found)},
        "index": {name: one.index.kind for name, one in _both(found)},
        "retention": {name: one.retention and one.retention.model_dump() for name, one in _both(found)},
    }


def _both(found: Diff) -> tuple[tuple[str, Manifest], tuple[str, Manifest]]:
    return ("before", found.before), ("after", found.after)


def _rows(found: Diff) -> Iterator[tuple[str, str, str, str]]:
    old, new, documents, overlap = found.before, found.after, found.documents, found.overlap
    change = f"{documents.added:,} added, {documents.removed:,} removed, {documents.changed:,} changed"
    yield "documents", f"{documents.before:,}", f"{documents.after:,}", change
    if overlap.mean is None:
        yield f"overlap@{overlap.k}", "", "", "no golden query in common"
    else:
        least = f"least {overlap.least:.1%} for {overlap.changed_most!r}"
        yield f"overlap@{overlap.k}", "", "", f"{overlap.mean:.1%} of {overlap.queries} golden queries' hits; {least}"
    bytes_before, bytes_after = total_bytes(old), total_bytes(new)
    yield "size", size(bytes_before), size(bytes_after), f"{bytes_after / max(bytes_before, 1) - 1:+.1%}"
    yield "index", old.index.kind, new.index.kind, f"default effort {old.index.default_effort} to {new.index.default_effort}"
    yield "retention", retained(old.retention), retained(new.retention), _gained(old, new)
    for part, same in found.parts.items():
        yield part.replace("_", " "), "", "", "the same" if same else "differs"


def _gained(old: Manifest, new: Manifest) -> str:
    if old.retention is None or new.retention is None:
        return ""
    return f"{100 * (new.retention.retained - old.retention.retained):+.2f} points"


def _efforts(found: Diff) -> Iterator[tuple[str, ...]]:
    old, new = ({row.effort: row for row in manifest.index.efforts} for manifest in (found.before, found.after))
    for effort in sorted(old.keys() | new.keys()):
        rows = old.get(effort), new.get(effort)
        recalls = (f"{row.recall_at_10:.4f}" if row else "" for row in rows)
        yield (str(effort), *recalls, *(f"{row.p99_ms:.3f}" if row else "" for row in rows))
