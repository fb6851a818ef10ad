"""Searching a FAISS index at an effort, and the table of what each effort finds and costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from offline.progress import track
from offline.ranking import Floats, Rows, recall_with_ties
from snapshot.manifest import Effort, Index

_WARM_QUERIES = 5
_REPEATS = 3
"""Of each query; the fastest counts, since percentiles are to tell hard queries from easy ones, not from a busy machine."""


def open_index(path: Path) -> faiss.Index:
    """Memory-map an index file; plain IO_FLAG_MMAP would copy HNSW and flat ones."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search(index: faiss.Index, kind: str, effort: int, queries: Floats, k: int) -> tuple[Floats, Rows]:
    """Scores float32[n, k] and rows int64[n, k] of queries float32[n, dim]; row -1 where fewer were found."""
    scores, rows = index.search(queries, k, params=_parameters(index, kind, effort))
    return scores, rows


def search_as_served(index: faiss.Index, described: Index, queries: Floats, k: int) -> Rows:
    """Rows int64[n, k] at the default effort."""
    return search(index, described.kind, described.default_effort, queries, min(k, index.ntotal))[1]


def measure(index: faiss.Index, kind: str, efforts: Sequence[int], queries: Floats, exact: Floats) -> tuple[Effort, ...]:
    """Search at each effort with one query at a time on one thread.

    Args:
        index: to be measured, best as it will be served: memory-mapped.
        kind: flat, hnsw or ivfpq.
        efforts: ascending.
        queries: float32[n, dim] of the student.
        exact: scores float32[n, k] of exact search; k is what is searched for.
    """
    with _one_thread():
        return tuple(_measure(index, kind, effort, queries, exact) for effort in track(efforts, "index, efforts measured"))


def default_effort(efforts: Sequence[Effort], target: float) -> tuple[int, str]:
    """The cheapest effort whose recall@10 reaches ``target``, and why; the best where none does."""
    enough = [row for row in efforts if row.recall_at_10 >= target]
    if enough:
        return enough[
            0
        ].effort, f"the least effort with recall@10 ≥ {target:g} is {enough[0].effort} ({enough[0].recall_at_10:.4f})"
    best = max(efforts, key=lambda row: (row.recall_at_10, -row.effort))
    return best.effort, f"no effort reaches recall@10 ≥ {target:g}; effort {best.effort} finds most ({best.recall_at_10:.4f})"


def _measure(index: faiss.Index, kind: str, effort: int, queries: Floats, exact: Floats) -> Effort:
    for query in queries[:_WARM_QUERIES]:
        search(index, kind, effort, query[None], exact.shape[1])
    found, milliseconds = np.empty_like(exact), np.empty((len(queries), _REPEATS))
    for row, repeat in np.ndindex(milliseconds.shape):
        started = time.perf_counter()
        scores, _ = search(index, kind, effort, queries[row : row + 1], exact.shape[1])
        milliseconds[row, repeat] = (time.perf_counter() - started) * 1e3
        found[row] = scores[0]
    p50, p99 = np.percentile(milliseconds.min(axis=1), [50, 99])
    return Effort(effort=effort, recall_at_10=recall_with_ties(found, exact), p50_ms=round(p50, 4), p99_ms=round(p99, 4))


def _parameters(index: faiss.Index, kind: str, effort: int) -> faiss.SearchParameters | None:
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
