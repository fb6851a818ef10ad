"""Searching a FAISS index at an effort, and the table of what each effort finds and costs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from offline.progress import track
from offline.ranking import Floats, Rows, recall_of, recall_with_ties
from offline.sharded import Shards
from snapshot.layout import INDEX
from snapshot.manifest import Effort, Index, ShardedIndex

_WARM_QUERIES = 5
_TIMED = 500
"""At most about so many of the queries, at even distances, tell how long a search takes; all tell what it finds."""
_REPEATS = 3
"""Of each that is timed; the fastest counts, since percentiles tell hard queries from easy ones, not from a busy machine."""


def open_index(path: Path) -> faiss.Index:
    """Memory-map an index file; plain IO_FLAG_MMAP would copy HNSW and flat ones."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def open_described(folder: Path, described: Index) -> faiss.Index | Shards:
    """Memory-map the files of an index in ``folder``."""
    if isinstance(described, ShardedIndex):
        return Shards(folder, described)
    return open_index(folder / INDEX)


def search(index: faiss.Index | Shards, kind: str, effort: int, queries: Floats, k: int) -> tuple[Floats, Rows]:
    """Scores float32[n, k] and rows int64[n, k] of queries float32[n, dim]; row -1 where fewer were found."""
    scores, rows = index.search(queries, k, params=_parameters(index, kind, effort))
    return scores, rows


def search_as_served(index: faiss.Index | Shards, described: Index, queries: Floats, k: int) -> Rows:
    """Rows int64[n, k] at the default effort."""
    return search(index, described.kind, described.default_effort, queries, min(k, index.ntotal))[1]


def measure(
    index: faiss.Index | Shards,
    kind: str,
    efforts: Sequence[int],
    queries: Floats,
    exact: Floats,
    rows: Rows | None = None,
    most_ms: float = math.inf,
) -> tuple[Effort, ...]:
    """Search at each effort with one query at a time on one thread.

    Args:
        index: to be measured, best as it will be served: memory-mapped.
        kind: as the manifest names it.
        efforts: ascending.
        queries: float32[n, dim] of the student.
        exact: scores float32[n, k] of exact search; k is what is searched for.
        rows: int64[n, k] of exact search: an index that rounds vectors finds them with other scores.
        most_ms: the first effort whose median is above is the last.
    """
    measured: list[Effort] = []
    with _one_thread():
        for effort in track(efforts, "index, efforts measured"):
            measured.append(_measure(index, kind, effort, queries, (exact, rows)))
            if measured[-1].p50_ms > most_ms:
                break
    return tuple(measured)


def default_effort(efforts: Sequence[Effort], target: float) -> tuple[int, str]:
    """The cheapest effort whose recall@10 reaches ``target``, and why; the best where none does."""
    enough = [row for row in efforts if row.recall_at_10 >= target]
    if enough:
        return enough[
            0
        ].effort, f"the least effort with recall@10 ≥ {target:g} is {enough[0].effort} ({enough[0].recall_at_10:.4f})"
    best = max(efforts, key=lambda row: (row.recall_at_10, -row.effort))
    return best.effort, f"no effort reaches recall@10 ≥ {target:g}; effort {best.effort} finds most ({best.recall_at_10:.4f})"


def _measure(index: faiss.Index | Shards, kind: str, effort: int, queries: Floats, exact: tuple[Floats, Rows | None]) -> Effort:
    k = exact[0].shape[1]
    for query in queries[:_WARM_QUERIES]:
        search(index, kind, effort, query[None], k)
    scores, rows, milliseconds = np.empty_like(exact[0]), np.empty(exact[0].shape, np.int64), np.empty((len(queries), _REPEATS))
    step = math.ceil(len(queries) / _TIMED)
    for row in range(len(queries)):
        for repeat in range(1 if row % step else _REPEATS):
            started = time.perf_counter()
            found = search(index, kind, effort, queries[row : row + 1], k)
            milliseconds[row, repeat] = (time.perf_counter() - started) * 1e3
        scores[row], rows[row] = found[0][0], found[1][0]
    p50, p99 = np.percentile(milliseconds[::step].min(axis=1), [50, 99])
    share = recall_with_ties(scores, exact[0]) if exact[1] is None else recall_of((scores, rows), (exact[0], exact[1]))
    return Effort(effort=effort, recall_at_10=share, p50_ms=round(p50, 4), p99_ms=round(p99, 4))


def _parameters(index: faiss.Index | Shards, kind: str, effort: int) -> Any:
    if kind == "sharded":
        return effort
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=effort)
    if kind == "ivfpq":
        probes = faiss.SearchParametersIVF(nprobe=effort)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=probes)
    return None


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
