"""FAISS: flat, HNSW and IVF-PQ with refinement, memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from service.engines.base import NO_ROW, NO_SCORE, Hits, Rows, Vectors
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import FlatIndex, HnswIndex, Index, IvfPqIndex
from snapshot.selection import Selection

EXACT_FLOATS = 1 << 25
"""Up to this many floats of surviving rows (134 MB, about 10 ms) a filtered search compares with every one of them."""

_CLASSES = {"flat": faiss.IndexFlatIP, "hnsw": faiss.IndexHNSWFlat, "ivfpq": faiss.IndexRefineFlat}
_AGAIN = "publish the snapshot again, or activate another one"


class FaissEngine:
    """An Engine over one FAISS file, whose full vectors answer whatever the approximate part cannot."""

    def __init__(self, index: Any, described: Index, exact_floats: int = EXACT_FLOATS) -> None:
        self._index = index
        self._described = described
        self._flat = faiss.downcast_index(_flat_storage(index, described))
        self._exact_floats = exact_floats
        self.dim = int(index.d)
        self.count = int(index.ntotal)

    @classmethod
    def open(cls, path: Path, described: Index, dim: int) -> FaissEngine:
        """Memory-map a verified file.

        Raises:
            IntegrityError: not a FAISS index of the kind that the manifest describes.
            SpaceMismatchError: its vectors are not ``dim`` wide.
        """
        index = _read(path)
        expected = _CLASSES[described.kind]
        if not isinstance(index, expected) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IntegrityError(
                f"{path}: holds {type(index).__name__} with metric {index.metric_type}, the manifest says {described.kind!r} "
                f"({expected.__name__} by inner product); {_AGAIN}"
            )
        if index.d != dim:
            raise SpaceMismatchError(f"{path}: vectors of {index.d} dimensions, the manifest's space has {dim}; {_AGAIN}")
        return cls(index, described)

    def search(self, queries: Vectors, k: int, effort: int, selection: Selection | None = None) -> Hits:
        """Approximate search; exact where few rows survive the filter, and for queries that it left short of hits."""
        eligible = _eligible(self.count, selection)
        if self._described.kind == "flat" or (selection is not None and eligible * self.dim <= self._exact_floats):
            return self.exact(queries, k, selection)
        # A graph or list search meets survivors in proportion to their share, so it has to look at more rows; not at more
        # than there are, because FAISS reserves memory for efSearch candidates before it has seen one.
        raised = min(self.count, math.ceil(effort * self.count / max(eligible, 1)))
        # FAISS reads the bits while it searches: the selector keeps a reference to them, and the parameters one to it.
        selector = None if selection is None else faiss.IDSelectorBitmap(selection.bits())
        wanted = min(k, eligible)
        hits = _run(self._index, queries, k, wanted, _parameters(self._described, raised, wanted, selector))
        return self._refill(hits, queries, k, wanted, selection)

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None) -> Hits:
        """Compare with every eligible row. An array selector makes FAISS visit the survivors alone."""
        selector = None if selection is None else faiss.IDSelectorArray(selection.rows())
        return _run(self._flat, queries, k, min(k, _eligible(self.count, selection)), faiss.SearchParameters(sel=selector))

    def close(self) -> None:
        """Unmap the file."""
        self._index = self._flat = None

    def _refill(self, hits: Hits, queries: Vectors, k: int, wanted: int, selection: Selection | None) -> Hits:
        """Answer exactly the queries that have fewer than ``wanted`` hits: never silently fewer results."""
        short: Rows = np.flatnonzero((hits.rows[:, :wanted] == NO_ROW).any(axis=1))
        if short.size:
            exact = self.exact(queries[short], k, selection)
            hits.scores[short], hits.rows[short] = exact.scores, exact.rows
        return hits


def _read(path: Path) -> Any:
    try:
        with _limits(path.stat().st_size):
            # MMAP_IFC maps every kind (plain MMAP silently copies flat and HNSW). The precomputed table serves L2 only.
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        raise IntegrityError(f"{path}: not a readable FAISS index ({str(error)[-200:]}); {_AGAIN}") from error


@contextmanager
def _limits(size: int) -> Iterator[None]:
    """Believe what a file claims about the size of its parts up to the size of the whole.

    The limits belong to the process, not to the call: snapshots are opened one after the other, and others may read
    larger files afterwards.
    """
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def _flat_storage(index: Any, described: Index) -> Any:
    """The part of the index that holds the full vectors."""
    match described:
        case FlatIndex():
            return index
        case HnswIndex():
            return index.storage
        case IvfPqIndex():
            return index.refine_index


def _parameters(described: Index, effort: int, k: int, selector: Any) -> Any:
    """Parameters of one call: what is set on the index itself would be shared by every request."""
    match described:
        case FlatIndex():
            return faiss.SearchParameters(sel=selector)
        case HnswIndex():
            return faiss.SearchParametersHNSW(efSearch=max(effort, k), sel=selector)
        case IvfPqIndex():
            probes = faiss.SearchParametersIVF(nprobe=max(effort, 1), sel=selector)
            return faiss.IndexRefineSearchParameters(k_factor=described.refine_factor, base_index_params=probes)


def _eligible(count: int, selection: Selection | None) -> int:
    return count if selection is None else selection.count


def _run(index: Any, queries: Vectors, k: int, wanted: int, parameters: Any) -> Hits:
    """Ask for ``wanted`` hits, with the blanks up to ``k`` as the contract has them."""
    scores = np.full((len(queries), k), NO_SCORE, dtype=np.float32)
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    if wanted == 0 or len(queries) == 0:
        return Hits(scores, rows)
    # OpenMP keeps its number of threads per calling thread, and makes a pool for each: so it is set by the thread that
    # calls, every time (0.2 microseconds), and one request uses one core (facebookresearch/faiss#2731).
    faiss.omp_set_num_threads(1)
    scores[:, :wanted], rows[:, :wanted] = index.search(
        np.ascontiguousarray(queries, dtype=np.float32), wanted, params=parameters
    )
    scores[rows == NO_ROW] = NO_SCORE
    return Hits(scores, rows)
