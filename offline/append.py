"""The parent's index with the changes put in, where that is cheaper than building one and keeps its recall.

Every kind adds rows. An HNSW graph cannot let go of a row (its neighbours would lose their way), so it is appended to only
where all of the parent's rows stay where they are. IVF-PQ can: the codes of the rows that stay move to new lists under
their new numbers, byte for byte, and only the others are coded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from offline.changes import CARRIED
from offline.encoded import SHARDS, Vectors, load_vectors
from offline.index import (
    DESCRIPTION,
    INDEX,
    Plan,
    Ruler,
    at_default,
    load_description,
    plan_for,
    summary,
    write,
    write_description,
    write_index,
)
from offline.index import run as build_whole
from offline.parent import Parent, parent_of
from offline.ranking import Floats, Rows
from offline.stages import Job, Summary
from snapshot.manifest import Index

_APPENDED = "appended.faiss"
_LIST_RANGE = 2.0
"""IVF may have so many times more or fewer lists than would be made for the new number of rows."""


def run(job: Job) -> Summary:
    """Append to the parent's index where that can be done and keeps its recall; build one otherwise. Says which, and why.

    A collection of a server is never written to again: it is built anew.
    """
    if job.recipe.index.kind == "milvus":
        return build_whole(job)
    parent, encoded = parent_of(job.source), Vectors(job.inputs["encode"] / SHARDS)
    making = _Making(job, parent, encoded, plan_for(job.recipe, *encoded.shape))
    if not _is_finished(making):
        carried = np.load(job.inputs["encode"] / CARRIED)
        why_not = obstacle(parent.manifest.index, making.plan, carried, parent.manifest.documents.count)
        why_not = why_not if why_not is not None else _append(making, carried)
        if why_not is not None:
            _build(making, why_not)
    return summary(load_description(job.folder), len(encoded))


@dataclass(frozen=True)
class _Making:
    """An index in the making; either file may be there from a killed run."""

    job: Job
    parent: Parent
    encoded: Vectors
    plan: Plan

    @property
    def path(self) -> Path:
        return self.job.folder / INDEX

    @property
    def appended(self) -> Path:
        return self.job.folder / _APPENDED

    @cached_property
    def ruler(self) -> Ruler:
        return Ruler.make(self.job, self.encoded)


def _is_finished(making: _Making) -> bool:
    """The description is written before an appended index gets its name, and after a built one has it."""
    return making.path.exists() and (making.job.folder / DESCRIPTION).exists() and not making.appended.exists()


def _append(making: _Making, carried: Rows) -> str | None:
    """None, or why the appended index is not taken."""
    before = making.parent.manifest.index
    if not making.appended.exists():
        vectors = load_vectors(making.job.inputs["encode"])
        write_index(append(making.parent.layout.index, before.kind, carried, vectors), making.appended)
    why = f"{before.kind}: appended to that of {making.parent.manifest.id}"
    described = making.ruler.describe(making.job.folder, Plan(making.plan.kind, sizes_in(before), why), _APPENDED)
    if not keeps_recall(before, described, making.job.recipe.index.recall_target):
        found = next((row.recall_at_10 for row in described.efforts if row.effort == before.default_effort), 0.0)
        return f"appending to the parent's leaves recall@10 {found:.4f} at effort {before.default_effort}"
    write_description(described, making.job.folder)
    making.appended.replace(making.path)
    return None


def _build(making: _Making, why: str) -> None:
    plan = replace(making.plan, why=f"{making.plan.why}; built anew: {why}")
    write(making.job, plan)
    write_description(making.ruler.describe(making.job.folder, plan), making.job.folder)
    making.appended.unlink(missing_ok=True)


def obstacle(before: Index, plan: Plan, carried: Rows, parent_rows: int) -> str | None:
    """Why the parent's index cannot be appended to, in words; None where it can.

    Args:
        before: what the parent's manifest says of its index.
        plan: what would be built.
        carried: int64[rows], the parent's row that each row takes over, or -1.
        parent_rows: how many the parent has.
    """
    if not np.any(carried >= 0):
        return "no row is carried over"
    if plan.kind == "flat":
        return "a flat index is built as fast as it is read"
    if plan.kind == "sharded":
        return "an index in several files is not appended to"
    if before.kind != plan.kind:
        return f"the parent's is of kind {before.kind}"
    if plan.kind == "hnsw":
        grown = len(carried) >= parent_rows and np.array_equal(carried[:parent_rows], np.arange(parent_rows))
        return _other_sizes(before, plan, {"m", "ef_construction"}) or (
            None if grown else "rows of the parent's changed, went or moved, which an HNSW graph cannot follow"
        )
    return _other_sizes(before, plan, {"pq_bytes", "refine_factor"}) or _other_lists(before, plan)


def _other_sizes(before: Index, plan: Plan, names: set[str]) -> str | None:
    others = [name for name in sorted(names) if getattr(before, name) != plan.sizes[name]]
    return f"{others[0]} is {getattr(before, others[0])} in the parent's and {plan.sizes[others[0]]} here" if others else None


def _other_lists(before: Index, plan: Plan) -> str | None:
    lists, due = sizes_in(before)["nlist"], plan.sizes["nlist"]
    if 1 / _LIST_RANGE <= lists / due <= _LIST_RANGE:
        return None
    return f"the parent's has {lists} lists where {due} are due"


def sizes_in(described: Index) -> dict[str, Any]:
    """The sizes in a description, as ``Plan`` has them."""
    return described.model_dump(exclude={"kind", "reason", "default_effort", "efforts"})


def append(path: Path, kind: str, carried: Rows, vectors: Floats) -> faiss.Index:
    """The index in ``path`` with row i for each row i of ``vectors`` float32[rows, dim]; see ``obstacle`` for ``carried``."""
    index = faiss.read_index(str(path))
    if kind == "hnsw":
        index.add(vectors[index.ntotal :])
        return index
    base = faiss.downcast_index(index.base_index)
    _renumber(base, _new_rows(carried, base.ntotal))
    fresh = np.flatnonzero(carried < 0)
    moved = _repeated(carried)
    added = np.union1d(fresh, moved)
    if len(added):
        base.add_with_ids(np.ascontiguousarray(vectors[added]), added)
    refined = faiss.IndexRefineFlat(base, faiss.swig_ptr(np.ascontiguousarray(vectors)))
    refined.k_factor = index.k_factor
    index.own_fields, refined.own_fields = False, True  # the base has a new owner
    return refined


def keeps_recall(before: Index, after: Index, target: float) -> bool:
    """Whether the parent's default effort still finds as much as the target, or as the parent's did where that was less."""
    found = next((row.recall_at_10 for row in after.efforts if row.effort == before.default_effort), 0.0)
    return found >= min(target, at_default(before).recall_at_10)


def _new_rows(carried: Rows, parent_rows: int) -> Rows:
    """int64[parent rows]: where each row of the parent's goes first, or -1."""
    places = np.full(parent_rows, -1, np.int64)
    kept = np.flatnonzero(carried >= 0)[::-1]
    places[carried[kept]] = kept  # reversed, so that the first of several stays
    return places


def _repeated(carried: Rows) -> Rows:
    """Rows that take over a vector which an earlier one has already: equal texts under several ids."""
    kept = np.flatnonzero(carried >= 0)
    _, first = np.unique(carried[kept], return_index=True)
    return np.delete(kept, first)


def _renumber(base: faiss.IndexIVF, places: Rows) -> None:
    """Give every code its new row and leave out those without one."""
    lists = faiss.ArrayInvertedLists(base.nlist, base.code_size)
    kept = 0
    for number in range(base.nlist):
        size = base.invlists.list_size(number)
        if not size:
            continue
        rows = places[faiss.rev_swig_ptr(base.invlists.get_ids(number), size)]
        codes = faiss.rev_swig_ptr(base.invlists.get_codes(number), size * base.code_size).reshape(size, -1)
        stay = rows >= 0
        ids, left = np.ascontiguousarray(rows[stay]), np.ascontiguousarray(codes[stay])
        if len(ids):
            lists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(left))
        kept += len(ids)
    lists.this.disown()
    base.replace_invlists(lists, True)
    base.ntotal = kept
