"""FAISS: flat, HNSW and IVF-PQ with refinement, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from service.deadline import Deadline
from service.engines.base import NO_ROW, NO_SCORE, Hits, Rows, Vectors
from service.engines.costs import Costs
from service.engines.filtered import Graph, Lists, Wanted, measure_graph, measure_lists
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import FileIndex, FlatIndex, HnswIndex, IvfPqIndex
from snapshot.selection import Selection

_CLASSES = {"flat": faiss.IndexFlatIP, "hnsw": faiss.IndexHNSWFlat, "ivfpq": faiss.IndexRefineFlat}
_MOST_KNOWN = 256
_AGAIN = "publish the snapshot again, or activate another one"


class FaissEngine:
    """An Engine over one FAISS file, whose full vectors answer whatever the approximate part cannot."""

    def __init__(self, index: Any, described: FileIndex, costs: Costs | None = None) -> None:
        self._index = index
        self._described = described
        self._flat = faiss.downcast_index(_flat_storage(index, described))
        self.dim = int(index.d)
        self.count = int(index.ntotal)
        self._known: dict[tuple[int, int], Any] = {}
        self._ways = _ways(index, self._flat, described, costs)

    @classmethod
    def open(cls, path: Path, described: FileIndex, dim: int) -> FaissEngine:
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

    def search(
        self,
        queries: Vectors,
        k: int,
        effort: int,
        selection: Selection | None = None,
        deadline: Deadline | None = None,  # noqa: ARG002 - a call into FAISS cannot be ended
    ) -> Hits:
        """Approximate search; exact for the queries that it left short of hits, and where that is cheaper."""
        if self._ways is None:
            return self.exact(queries, k, selection)
        if selection is not None and selection.count < self.count:
            return self._filtered(queries, k, effort, selection, self._ways)
        wanted = min(k, self.count)
        # Not above the number of rows: FAISS reserves memory for efSearch candidates before it has seen one.
        hits = _run(self._index, queries, k, wanted, self._parameters(min(effort, self.count), wanted))
        if wanted and (hits.rows[:, wanted - 1] == NO_ROW).any():  # blanks come last
            short = np.flatnonzero(hits.rows[:, wanted - 1] == NO_ROW)
            return self._refill(hits, short, queries, None)
        return hits

    def exact(
        self,
        queries: Vectors,
        k: int,
        selection: Selection | None = None,
        deadline: Deadline | None = None,  # noqa: ARG002 - as above
    ) -> Hits:
        """Compare with every eligible row. An array selector makes FAISS visit the survivors alone."""
        selector = None if selection is None else faiss.IDSelectorArray(selection.rows())
        wanted = min(k, self.count if selection is None else selection.count)
        return replace(_run(self._flat, queries, k, wanted, faiss.SearchParameters(sel=selector)), exact=True)

    def _parameters(self, effort: int, k: int) -> Any:
        """Those of one effort, made once: FAISS only reads them, and making them costs as much as fetching two hits."""
        known = self._known.get((effort, k))
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}
            known = self._known[effort, k] = _parameters(self._described, effort, k)
        return known

    def close(self) -> None:
        """Unmap the file."""
        self._index = self._flat = self._ways = None

    def _filtered(self, queries: Vectors, k: int, effort: int, selection: Selection, ways: Graph | Lists) -> Hits:
        """Each query by itself: one may have its neighbourhood in the selection, another not."""
        hits, wanted = _blanks(len(queries), k), min(k, selection.count)
        _use_one_thread()
        short = []
        for number in range(len(queries) if wanted else 0):
            query = np.ascontiguousarray(queries[number : number + 1], dtype=np.float32)
            found = ways.search(Wanted(query, wanted, effort, selection))
            if found is None:
                short.append(number)
            else:
                hits.scores[number, :wanted], hits.rows[number, :wanted] = found
        return self._refill(hits, np.array(short), queries, selection) if short else hits

    def _refill(self, hits: Hits, short: Rows, queries: Vectors, selection: Selection | None) -> Hits:
        """Answer the ``short`` queries exactly: never silently fewer results."""
        exact = self.exact(queries[short], hits.rows.shape[1], selection)
        if len(short) == len(queries):
            return exact
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


def _flat_storage(index: Any, described: FileIndex) -> Any:
    """The part of the index that holds the full vectors."""
    match described:
        case FlatIndex():
            return index
        case HnswIndex():
            return index.storage
        case IvfPqIndex():
            return index.refine_index


def _ways(index: Any, flat: Any, described: FileIndex, costs: Costs | None) -> Graph | Lists | None:
    """How to search among selected rows, other than by comparing with each; measured here unless ``costs`` are given."""
    _use_one_thread()
    match described:
        case FlatIndex():
            return None
        case HnswIndex():
            return Graph(index, costs or measure_graph(index, flat))
        case IvfPqIndex():
            return Lists(index, described, costs or measure_lists(index, flat, described))


def _parameters(described: FileIndex, effort: int, k: int) -> Any:
    """Parameters of one call: what is set on the index itself would be shared by every request."""
    match described:
        case FlatIndex():
            return None
        case HnswIndex():
            return faiss.SearchParametersHNSW(efSearch=max(effort, k))
        case IvfPqIndex():
            probes = faiss.SearchParametersIVF(nprobe=max(effort, 1))
            return faiss.IndexRefineSearchParameters(k_factor=described.refine_factor, base_index_params=probes)


def _use_one_thread() -> None:
    """For the calling thread, which must do so each time that it calls FAISS (0.2 microseconds).

    OpenMP keeps its number of threads per calling thread, and makes a pool for each (facebookresearch/faiss#2731).
    """
    faiss.omp_set_num_threads(1)


def _blanks(queries: int, k: int) -> Hits:
    return Hits(np.full((queries, k), NO_SCORE, dtype=np.float32), np.full((queries, k), NO_ROW, dtype=np.int64))


def _run(index: Any, queries: Vectors, k: int, wanted: int, parameters: Any) -> Hits:
    """Ask for ``wanted`` hits, with the blanks up to ``k`` as the contract has them."""
    if wanted == 0 or len(queries) == 0:
        return _blanks(len(queries), k)
    _use_one_thread()
    scores, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted, params=parameters)
    if wanted == k and rows[:, -1].min() != NO_ROW:
        return Hits(scores, rows)
    hits = _blanks(len(queries), k)
    hits.scores[:, :wanted], hits.rows[:, :wanted] = scores, rows
    hits.scores[hits.rows == NO_ROW] = NO_SCORE
    return hits
