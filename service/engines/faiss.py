"""FAISS: flat, HNSW and IVF-PQ with refinement, memory-mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from service.deadline import Deadline
from service.engines.base import NO_ROW, NO_SCORE, Hits, Vectors
from service.engines.costs import Costs
from service.engines.filtered import Graph, Lists, measure_graph, measure_lists
from service.engines.frame import Ask, answer_filtered, blanks, refill, use_one_thread
from service.engines.mapped import AGAIN, read_index
from service.engines.stored import OneFile, rows_compared
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import FlatIndex, HnswIndex, IvfPqIndex
from snapshot.selection import Selection

_Described = FlatIndex | HnswIndex | IvfPqIndex
_CLASSES = {"flat": faiss.IndexFlatIP, "hnsw": faiss.IndexHNSWFlat, "ivfpq": faiss.IndexRefineFlat}
_MOST_KNOWN = 256


class FaissEngine:
    """An Engine over one FAISS file, whose full vectors answer whatever the approximate part cannot."""

    def __init__(self, index: Any, described: _Described, costs: Costs | None = None) -> None:
        self._index = index
        self._described = described
        self._flat = faiss.downcast_index(_flat_storage(index, described))
        self.dim = int(index.d)
        self.count = int(index.ntotal)
        self._known: dict[tuple[int, int], Any] = {}
        self._ways = _ways(index, self._flat, described, costs)

    @classmethod
    def open(cls, path: Path, described: _Described, dim: int) -> FaissEngine:
        """Memory-map a verified file.

        Raises:
            IntegrityError: not a FAISS index of the kind that the manifest describes.
            SpaceMismatchError: its vectors are not ``dim`` wide.
        """
        index = read_index(path)
        expected = _CLASSES[described.kind]
        if not isinstance(index, expected) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IntegrityError(
                f"{path}: holds {type(index).__name__} with metric {index.metric_type}, the manifest says {described.kind!r} "
                f"({expected.__name__} by inner product); {AGAIN}"
            )
        if index.d != dim:
            raise SpaceMismatchError(f"{path}: vectors of {index.d} dimensions, the manifest's space has {dim}; {AGAIN}")
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
            return answer_filtered(self._ways, self.exact, Ask(queries, k, effort, selection))
        wanted = min(k, self.count)
        # Not above the number of rows: FAISS reserves memory for efSearch candidates before it has seen one.
        hits = _run(self._index, queries, k, wanted, self._parameters(min(effort, self.count), wanted))
        if wanted and (hits.rows[:, wanted - 1] == NO_ROW).any():  # blanks come last
            short = np.flatnonzero(hits.rows[:, wanted - 1] == NO_ROW)
            return refill(self.exact, hits, short, queries, None)
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


def _flat_storage(index: Any, described: _Described) -> Any:
    """The part of the index that holds the full vectors."""
    match described:
        case FlatIndex():
            return index
        case HnswIndex():
            return index.storage
        case IvfPqIndex():
            return index.refine_index


def _ways(index: Any, flat: Any, described: _Described, costs: Costs | None) -> Graph | Lists | None:
    """How to search among selected rows, other than by comparing with each; measured here unless ``costs`` are given."""
    use_one_thread()
    match described:
        case FlatIndex():
            return None
        case HnswIndex():
            return Graph(index, costs or measure_graph(index, flat))
        case IvfPqIndex():
            return Lists(OneFile(index), described, costs or measure_lists(index, flat, described))


def _parameters(described: _Described, effort: int, k: int) -> Any:
    """Parameters of one call: what is set on the index itself would be shared by every request."""
    match described:
        case FlatIndex():
            return None
        case HnswIndex():
            return faiss.SearchParametersHNSW(efSearch=max(effort, k))
        case IvfPqIndex():
            probes = faiss.SearchParametersIVF(nprobe=max(effort, 1))
            compared = rows_compared(k, described.refine_factor) / max(k, 1)
            return faiss.IndexRefineSearchParameters(k_factor=compared, base_index_params=probes)


def _run(index: Any, queries: Vectors, k: int, wanted: int, parameters: Any) -> Hits:
    """Ask for ``wanted`` hits, with the blanks up to ``k`` as the contract has them."""
    if wanted == 0 or len(queries) == 0:
        return blanks(len(queries), k)
    use_one_thread()
    scores, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted, params=parameters)
    if wanted == k and rows[:, -1].min() != NO_ROW:
        return Hits(scores, rows)
    hits = blanks(len(queries), k)
    hits.scores[:, :wanted], hits.rows[:, :wanted] = scores, rows
    hits.scores[hits.rows == NO_ROW] = NO_SCORE
    return hits
