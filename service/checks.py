"""The checks of quality: each measures one thing on a loaded snapshot that does not serve yet.

All of it runs beside the hot path: native calls of some milliseconds, which release the interpreter's lock, with a pause
between them. ``pace`` is called there, and may raise to give up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engines.base import NO_ROW, Engine, Rows, Vectors
from service.gate import Check, GateOptions, not_applicable
from service.generation import Generation
from service.memory import available_bytes, held_bytes, mapped_bytes
from snapshot.documents import Documents
from snapshot.layout import Layout
from snapshot.manifest import Effort, Manifest
from snapshot.selection import Selection

Pace = Callable[[], None]

K = 10
ENOUGH_QUERIES = 20
"""Fewer recent queries say nothing about an overlap."""
_BATCH = 16
"""Queries of one call: FAISS takes another way from 20 on, which is not bound to one thread."""
_CHUNK_ROWS = 4096
"""Of exact search: some megabytes, which stay in the processor's cache while each query of a batch is compared with them."""
_MOST_COMPARISONS = 16_000_000
"""Of exact search, queries times rows: about two seconds of one core."""
_RECALL_QUERIES = (8, 32)
"""At least and at most, as far as there are so many."""
_LATENCY_QUERIES = 64
_REPEATS = 2
"""Of each timed search; the fastest counts, since a busy neighbour makes the others slower, never faster."""
_STANDARD_ERRORS = 3.0
_TIE = 1e-5
_SHOWN_IDS = 3


def memory(layout: Layout, manifest: Manifest, beside: Sequence[tuple[Layout, Manifest]], options: GateOptions) -> Check:
    """Whether this snapshot fits into what is left of the memory beside those that are open, before it is opened.

    Where none is, only what it holds for itself counts: pages that do not fit would slow nobody but itself.
    """
    held = held_bytes(manifest, options.filter_cache_bytes)
    mapped = mapped_bytes([(layout, manifest), *beside]) if beside else 0
    available = available_bytes()
    if available is None:
        return not_applicable("memory", None, "the system does not say how much memory is left")
    limit = int(options.memory_share * available)
    together = f"{mapped} mapped together with what serves" if beside else "nothing serves whose pages it could push out"
    detail = f"bytes: {held} held by the query tower and the filter cache, {together}"
    return Check("memory", held + mapped, limit, held + mapped <= limit, forcible=True, detail=detail)


def recall(manifest: Manifest, engine: Engine, queries: Vectors, tolerance: float, pace: Pace) -> Check:
    """Whether the index finds here, at every effort, what its effort table says, compared with exact search in itself.

    A sample errs: the limit is ``tolerance`` and three standard errors of it.

    Args:
        manifest: with the effort table.
        engine: of the snapshot.
        queries: float32[n, dim] of the golden set. Not what users asked lately: the table was measured with the like of
            the golden queries, and what it says of them is what can be reproduced.
        tolerance: of recall.
        pace: between two calls.
    """
    low, high = _RECALL_QUERIES
    queries = queries[: max(low, min(high, _MOST_COMPARISONS // engine.count))]
    k = min(K, engine.count)
    floor = exact_scores(engine, queries, k, pace)[:, -1:] - _TIE
    flat = manifest.index.kind == "flat"
    rows = [_fall_short(row, engine, queries, floor, flat, pace) for row in manifest.index.efforts]
    short, error, worst = max(rows, key=lambda row: row[0] - _STANDARD_ERRORS * row[1])
    limit = tolerance + _STANDARD_ERRORS * error
    detail = (
        f"worst shortfall of recall@{k} from the effort table, at effort {worst.effort}: "
        f"{worst.recall_at_10 - short:.3f} found of {worst.recall_at_10:.3f}, {len(queries)} queries against exact search"
    )
    return Check("recall", round(short, 4), round(limit, 4), short <= limit, forcible=True, detail=detail)


def _fall_short(
    row: Effort, engine: Engine, queries: Vectors, floor: Vectors, flat: bool, pace: Pace
) -> tuple[float, float, Effort]:
    """How far recall falls short of a row of the table, and the standard error of that."""
    k, found = min(K, engine.count), []
    for at in range(0, len(queries), _BATCH):
        pace()
        hits = engine.search(queries[at : at + _BATCH], k, row.effort)
        # Exact where approximate search was asked for: the engine found too little, and compared with everything instead.
        found.append((hits.scores >= floor[at : at + _BATCH]).mean(axis=1) * (flat or not hits.exact))
    each = np.concatenate(found)
    return float(row.recall_at_10 - each.mean()), float(each.std() / np.sqrt(len(each))), row


def exact_scores(engine: Engine, queries: Vectors, k: int, pace: Pace, selection: Selection | None = None) -> Vectors:
    """float32[n, k], the best scores of exact search over the selected rows, best first, in calls of some milliseconds.

    Where fewer than ``k`` are selected, the others are -inf.
    """
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = None if selection is None else selection.rows()
    count = engine.count if rows is None else len(rows)
    for start in range(0, count, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, count)
        held = np.arange(start, stop, dtype=np.int64) if rows is None else rows[start:stop]
        chunk = Selection(engine.count, stop - start, held)
        for at in range(0, len(queries), _BATCH):
            pace()
            scores = engine.exact(queries[at : at + _BATCH], k, chunk).scores
            both = np.concatenate([best[at : at + _BATCH], scores], axis=1)
            best[at : at + _BATCH] = -np.sort(-both, axis=1)[:, :k]
    return best


def documents(manifest: Manifest, serving: Manifest | None, options: GateOptions) -> Check:
    """Whether there are about as many documents as in the snapshot that serves."""
    low, high = options.min_documents_ratio, options.max_documents_ratio
    limit = f"{low:g} to {high:g}"
    if serving is None:
        return not_applicable("documents", limit, "no snapshot serves")
    ratio = manifest.documents.count / serving.documents.count
    detail = f"documents over those that serve: {manifest.documents.count} over {serving.documents.count}"
    return Check("documents", round(ratio, 4), limit, low <= ratio <= high, forcible=True, detail=detail)


def required_ids(found: Documents, listed: Path | None) -> Check:
    """Whether every id of a file is there. A file that cannot be read fails: nobody can say that they are."""
    if listed is None:
        return not_applicable("required_ids", 0, "no list is configured")
    try:
        wanted = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        return Check("required_ids", None, 0, passed=False, forcible=True, detail=f"{listed}: cannot be read ({error})")
    missing = found.missing(wanted)
    shown = f", such as {', '.join(missing[:_SHOWN_IDS])}" if missing else ""
    detail = f"missing of {len(wanted)} ids that {listed} requires{shown}"
    return Check("required_ids", len(missing), 0, not missing, forcible=True, detail=detail)


def overlap(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], serving: str, least: float) -> Check:
    """Mean share of the best ids that both snapshots give to the same queries, each by its own tower and index.

    Args:
        ours: ids that each query finds in the candidate.
        theirs: the same in the snapshot that serves.
        serving: its id.
        least: that passes.
    """
    mean = float(np.mean([share_in_common(mine, other) for mine, other in zip(ours, theirs, strict=True)]))
    detail = f"mean overlap@{K} with {serving}, {len(ours)} recent queries"
    return Check("overlap", round(mean, 4), least, mean >= least, forcible=True, detail=detail)


def best_ids(generation: Generation, queries: Sequence[str], pace: Pace) -> list[list[str]]:
    """The ids that each query finds at the default effort, at most ten."""
    best = []
    for at in range(0, len(queries), _BATCH):
        pace()
        vectors = generation.encoder.encode(queries[at : at + _BATCH])
        pace()
        found = generation.engine.search(vectors, K, generation.manifest.index.default_effort).rows
        best += [generation.documents.ids(_there(rows)) for rows in found]
    return best


def share_in_common(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Ids that both have, over those that the longer has; 1 where neither has any."""
    longest = max(len(ours), len(theirs))
    return len(set(ours) & set(theirs)) / longest if longest else 1.0


def p99(generation: Generation, queries: Sequence[str], limit_ms: float, pace: Pace) -> Check:
    """Whether a search keeps its time here: one query at a time, encoded, searched at the default effort, with all fields."""
    milliseconds = []
    for query in queries[:_LATENCY_QUERIES]:
        pace()
        milliseconds.append(min(timed_ms(generation, query) for _ in range(_REPEATS)))
    value = float(np.percentile(milliseconds, 99))
    detail = f"milliseconds of one core that a search with ten hits takes here, {len(milliseconds)} queries"
    return Check("p99", round(value, 3), limit_ms, value <= limit_ms, forcible=True, detail=detail)


def timed_ms(generation: Generation, query: str) -> float:
    """Milliseconds of the processor that one whole search takes: the gate is behind everybody else in the queue for it."""
    begun = time.thread_time()
    search_once(generation, query)
    return (time.thread_time() - begun) * 1000.0


def search_once(generation: Generation, query: str) -> list[str]:
    """Search as a request would, ids and fields read; the ids."""
    vector = generation.encoder.encode([query])
    rows = _there(generation.engine.search(vector, K, generation.manifest.index.default_effort).rows[0])
    generation.documents.fields(rows)
    return generation.documents.ids(rows)


def _there(rows: Rows) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = rows[rows != NO_ROW]
    return found
