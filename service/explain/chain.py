"""The lists of one query: from exact search with the teacher's vector to what is served, one thing at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from service.encoder import Encoder
from service.engines.base import NO_ROW, Hits, Vectors
from service.explain.losses import Stand, Step
from service.generation import Generation
from service.stages import Search, check
from snapshot.manifest import IvfPqIndex, ShardedIndex
from snapshot.selection import Selection

_DEEP = 10
"""Times k: how far down exact search is looked at for the ranks of what was lost."""
_MOST_DEEP = 8192
"""Rows, of a search that does not look at the filter."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What was found by each step, and why some could not be looked at.

    Attributes:
        stands: the reference first.
        unknown: steps that this snapshot does not let one tell apart, with the reason.
        absent: steps in which nothing can be lost, with the reason.
        eligible: documents that the filter leaves.
        enough: least greater effort of the table at which the index finds all that it has; None where none does, or the
            chosen one does.
    """

    stands: tuple[Stand, ...]
    unknown: dict[Step, str]
    absent: dict[Step, str]
    eligible: int
    enough: int | None = None


@dataclass(frozen=True, slots=True)
class Efforts:
    """What the index is searched with: what was chosen, and what the budget left of it."""

    chosen: int
    planned: int


@dataclass(frozen=True, slots=True)
class _Query:
    """One query with all that its steps share."""

    generation: Generation
    k: int
    selection: Selection | None
    served: Vectors
    unknown: dict[Step, str] = field(default_factory=dict)
    absent: dict[Step, str] = field(default_factory=dict)


def open_teacher(generation: Generation) -> Encoder | None:
    """The teacher's query tower, where the snapshot carries it; close it."""
    tower = generation.manifest.teacher_tower
    return None if tower is None else Encoder.open(generation.layout.teacher, tower, generation.manifest.space, 1)


def follow(generation: Generation, teacher: Encoder | None, search: Search, efforts: Efforts) -> Chain:
    """Search by each step. InvalidRequestError where the filter names what the snapshot does not have."""
    parsed = check(generation, search)
    selection = None if parsed is None else generation.documents.select(parsed)
    eligible = generation.engine.count if selection is None else selection.count
    served = generation.encoder.encode([search.query])
    query = _Query(generation, min(search.k, eligible), selection, served)
    if not eligible:
        return Chain((Stand("teacher", (), ()),), {}, {}, 0)
    by_vectors = list(_by_vectors(query, teacher, search.query))
    stands = (*by_vectors, *_by_index(query, efforts))
    return Chain(stands, query.unknown, query.absent, eligible, _enough(query, efforts.chosen, by_vectors[-1]))


def _by_vectors(query: _Query, teacher: Encoder | None, text: str) -> Iterator[Stand]:
    """Exact search with the vector of the teacher, of the student in torch, and of the graph that is served."""
    fp32 = _golden_vector(query.generation, text)
    first: Step = "teacher" if teacher is None else "encoder"
    if teacher is not None:
        yield _exact(query, "teacher", teacher.encode([text]), "exact search, teacher's vector")
    else:
        query.unknown["encoder"] = "the snapshot does not carry its teacher (pack.teacher), so the student is the reference"
    if query.generation.manifest.query_tower.precision == "fp32":
        query.absent["int8"] = "the graph that is served is fp32"
        yield _exact(query, first, query.served, "exact search, student's vector")
        return
    if fp32 is None:
        query.unknown["int8"] = "no fp32 graph in the snapshot, and the query is no golden probe: it is within the step before"
        yield _exact(query, first, query.served, "exact search, int8 student's vector")
        return
    yield _exact(query, first, fp32, "exact search, student's vector in fp32 (golden)")
    yield _exact(query, "int8", query.served, "exact search, vector of the int8 graph")


def _by_index(query: _Query, efforts: Efforts) -> Iterator[Stand]:
    """Codes, effort, budget and filter, all with the vector that is served."""
    index = query.generation.manifest.index
    if isinstance(index, IvfPqIndex | ShardedIndex):
        size = index.pq_bytes if isinstance(index, IvfPqIndex) else index.code_bytes
        note = f"codes of {size} bytes, all {index.nlist} lists, {index.refine_factor} times k (10 at least) refined"
        if isinstance(index, ShardedIndex) and index.refine != "fp32":
            note += f"; what whole vectors kept as {index.refine} lose is unknown, the originals are not in the snapshot"
        yield _approximate(query, "quantisation", index.nlist, note)
    else:
        query.absent["quantisation"] = f"a {index.kind} index compares full vectors"
    if index.kind == "flat":
        query.absent["ann"] = "a flat index is searched exactly"
    else:
        yield _approximate(query, "ann", efforts.chosen, f"effort {efforts.chosen}")
    if efforts.planned != efforts.chosen:
        yield _approximate(query, "budget", efforts.planned, f"effort {efforts.planned}, which the budget leaves")
    if query.selection is not None:
        hits = query.generation.engine.search(query.served, query.k, efforts.planned, query.selection)
        how = "each eligible document compared" if hits.exact else "deeper until k are found"
        yield _stand(query, "filter", hits, f"{query.selection.count} eligible documents, {how}")


def _enough(query: _Query, chosen: int, exact: Stand) -> int | None:
    wanted = set(exact.rows)
    greater = [row.effort for row in query.generation.manifest.index.efforts if row.effort > chosen]
    if wanted <= set(_approximate(query, "ann", chosen, "").rows):
        return None
    return next((effort for effort in greater if wanted <= set(_approximate(query, "ann", effort, "").rows)), None)


def _exact(query: _Query, step: Step, vector: Vectors, note: str) -> Stand:
    deep = min(query.k * _DEEP, query.generation.engine.count)
    hits = query.generation.engine.exact(vector, deep, query.selection)
    ranks = {int(row): rank for rank, row in enumerate(hits.rows[0], 1) if row != NO_ROW}
    best = Hits(hits.scores[:, : query.k], hits.rows[:, : query.k], exact=True)
    return _stand(query, step, best, note, ranks, comparable=False)


def _approximate(query: _Query, step: Step, effort: int, note: str) -> Stand:
    """What the index finds at an effort without knowing of the filter, deep enough to have k eligible rows if it can."""
    engine, k, selection = query.generation.engine, query.k, query.selection
    if selection is None:
        return _stand(query, step, engine.search(query.served, k, effort), note)
    eligible, depth = selection.rows(), k
    best = engine.search(query.served, k, effort)
    while depth < min(engine.count, _MOST_DEEP) and np.isin(best.rows[0], eligible).sum() < k:
        depth = min(2 * depth, engine.count, _MOST_DEEP)
        deeper = engine.search(query.served, depth, effort)
        if deeper.exact:  # the index itself ran out of rows
            break
        best = deeper
    kept = np.flatnonzero(np.isin(best.rows[0], eligible))[:k]
    return _stand(query, step, Hits(best.scores[:, kept], best.rows[:, kept]), f"{note}, {best.rows.shape[1]} rows deep")


def _stand(
    query: _Query, step: Step, hits: Hits, note: str, ranks: dict[int, int] | None = None, comparable: bool = True
) -> Stand:
    there = hits.rows[0] != NO_ROW
    rows = tuple(int(row) for row in hits.rows[0][there][: query.k])
    scores = tuple(float(score) for score in hits.scores[0][there][: query.k])
    return Stand(step, rows, scores, ranks or {}, comparable, note)


def _golden_vector(generation: Generation, text: str) -> Vectors | None:
    """The vector that the tower in torch gave to a golden probe; None where the query is none."""
    golden = generation.golden
    place = golden.queries.index(text) if text in golden.queries else None
    return None if place is None else golden.vectors[place : place + 1]
