"""What changed from one snapshot to another: documents by the content of their fields, golden hits, sizes and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from snapshot.documents import open_table
from snapshot.golden import GoldenSet, read_golden
from snapshot.layout import Layout
from snapshot.manifest import FileEntry, Manifest
from snapshot.verify import read_verified

Rows = npt.NDArray[np.int64]
_EXAMPLES = 10
_DEPTH = 10
"""The hits of a golden query that are compared."""
_SLICE = 1 << 16
"""Rows compared at a time: what is copied for that stays small."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents by id; those in both are changed if any field that both have differs.

    Attributes:
        examples: of each of the three, some ids.
        columns: those that only one has, or that have another type, with what happened to them.
    """

    before: int
    after: int
    added: int
    removed: int
    changed: int
    examples: dict[str, list[str]]
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of exact search's hits of the golden queries that both have is the same.

    Attributes:
        queries: that both have.
        k: hits compared; fewer than 10 where a golden set has fewer.
        mean: share of them that are the same document; None without common queries.
        least: the share of the query that changed most.
        changed_most: that query.
    """

    queries: int
    k: int
    mean: float | None
    least: float | None
    changed_most: str | None


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed; ``parts`` is for each part of a snapshot whether its bytes are the same."""

    before: Manifest
    after: Manifest
    documents: Documents
    overlap: Overlap
    parts: dict[str, bool]


def compare(before: Layout, after: Layout) -> Diff:
    """Compare two snapshots. The files that are read for it, documents and golden sets, are verified first.

    Raises:
        SnapshotError: one of them is damaged.
    """
    old, new = (read_verified(layout.root, ("documents/", "golden/")) for layout in (before, after))
    tables = [open_table(layout.documents) for layout in (before, after)]
    golden = [read_golden(layout, manifest) for layout, manifest in ((before, old), (after, new))]
    same = {part: _files(old, part) == _files(new, part) for part in ("query_tower", "index", "documents", "golden")}
    documents = _same_documents(old) if same["documents"] else compare_documents(*tables)
    parts = {"space": old.space == new.space, **same}
    return Diff(old, new, documents, _overlap(golden[0], tables[0], golden[1], tables[1]), parts)


def compare_documents(before: pa.Table, after: pa.Table) -> Documents:
    """Compare two tables of documents, each with unique ids. A million rows take 2 s, or 5 s in another order.

    Nothing is a value: a field that is missing in both is the same, NaN and NaN are the same.
    """
    old_ids, new_ids = (_one(table.column("id")) for table in (before, after))
    found = pc.index_in(new_ids, value_set=old_ids)
    common = np.flatnonzero(np.asarray(found.is_valid()))
    rows = np.asarray(found.drop_null(), dtype=np.int64)
    gone = pc.invert(pc.is_in(old_ids, value_set=new_ids))
    names = [name for name in before.column_names if name in after.column_names and name != "id"]
    names = [name for name in names if before.schema.field(name).type == after.schema.field(name).type]
    changed = common[_changed(before.select(names), rows, after.select(names), common)]
    added, removed = new_ids.filter(found.is_null()), old_ids.filter(gone)
    examples = {"added": added, "removed": removed, "changed": new_ids.take(pa.array(changed[:_EXAMPLES]))}
    return Documents(
        before=len(old_ids),
        after=len(new_ids),
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        examples={name: ids[:_EXAMPLES].to_pylist() for name, ids in examples.items()},
        columns=dict(_columns(before.schema, after.schema)),
    )


def _same_documents(manifest: Manifest) -> Documents:
    count = manifest.documents.count
    return Documents(count, count, 0, 0, 0, {"added": [], "removed": [], "changed": []}, {})


def _changed(before: pa.Table, old_rows: Rows, after: pa.Table, new_rows: Rows) -> npt.NDArray[np.bool_]:
    """bool[n]: whether row ``old_rows[i]`` of the one differs from row ``new_rows[i]`` of the other."""
    changed = np.zeros(len(old_rows), dtype=np.bool_)
    for start in range(0, len(old_rows), _SLICE):
        part = slice(start, start + _SLICE)
        for name in before.column_names:
            changed[part] |= _differs(_at(before.column(name), old_rows[part]), _at(after.column(name), new_rows[part]))
    return changed


def _at(column: pa.ChunkedArray, rows: Rows) -> pa.Array:
    """The cells of ``rows``; copied only where they do not follow each other."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return _one(column.slice(int(rows[0]), len(rows)))
    return _one(column.take(pa.array(rows)))


def _differs(old: pa.Array, new: pa.Array) -> npt.NDArray[np.bool_]:
    same = pc.fill_null(pc.equal(old, new), False)
    if pa.types.is_floating(old.type):
        same = pc.or_(same, pc.fill_null(pc.and_(pc.is_nan(old), pc.is_nan(new)), False))
    if old.null_count and new.null_count:
        same = pc.or_(same, pc.and_(old.is_null(), new.is_null()))
    return ~np.asarray(same, dtype=np.bool_)


def _columns(before: pa.Schema, after: pa.Schema) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys([*before.names, *after.names]):
        if name not in before.names:
            yield name, f"added ({after.field(name).type})"
        elif name not in after.names:
            yield name, f"removed ({before.field(name).type})"
        elif before.field(name).type != after.field(name).type:
            yield name, f"{before.field(name).type} became {after.field(name).type}"


def _overlap(old: GoldenSet, before: pa.Table, new: GoldenSet, after: pa.Table) -> Overlap:
    k = min(_DEPTH, old.rows.shape[1], new.rows.shape[1])
    places = {query: number for number, query in enumerate(old.queries)}
    asked = [(query, places[query], number) for number, query in enumerate(new.queries) if query in places]
    if not asked:
        return Overlap(0, k, None, None, None)
    hits = [_ids(before, old.rows[[place for _, place, _ in asked], :k]), _ids(after, new.rows[[row for *_, row in asked], :k])]
    shares = [len(set(left) & set(right)) / k for left, right in zip(*hits, strict=True)]
    least = int(np.argmin(shares))
    return Overlap(len(asked), k, float(np.mean(shares)), shares[least], asked[least][0])


def _ids(table: pa.Table, rows: Rows) -> list[list[str]]:
    """The ids of rows int64[q, k]."""
    flat = cast("list[str]", table.column("id").take(pa.array(rows.reshape(-1))).to_pylist())
    return [flat[start : start + rows.shape[1]] for start in range(0, len(flat), rows.shape[1])]


def _files(manifest: Manifest, part: str) -> dict[str, FileEntry]:
    return {name: entry for name, entry in manifest.files.items() if name.startswith(f"{part}/")}


def _one(column: pa.ChunkedArray) -> pa.Array:
    """As one array; that of one chunk is not copied."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
