"""What the filtered search of inverted lists asks of an index, whether it lies in one file or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np

from service.engines.base import Rows, Vectors
from snapshot.selection import Selection

Found = tuple[Vectors, Rows]
"""Scores float32[k] and rows int64[k], best first."""

NOTHING: Found = np.empty(0, np.float32), np.empty(0, np.int64)

MEASURED_K = 10
"""Hits of which recall in effort tables is."""


def rows_compared(k: int, refine_factor: int) -> int:
    """How many rows that codes put first are compared by whole vectors for the ``k`` best.

    For few as many as for ten: else the best of one would be worse than the first of ten, and than the recall that was measured.
    """
    return max(k, MEASURED_K) * refine_factor


class Stored(Protocol):
    """Rows in inverted lists by codes, and as whole vectors. ``query`` is float32[1, dim]."""

    @property
    def nlist(self) -> int:
        """Number of lists."""

    def nearest(self, query: Vectors, count: int) -> Found:
        """Similarities and lists, nearest first."""

    def rows(self, lists: Rows) -> Sequence[Rows]:
        """The rows of each list, as views that are not kept."""

    def candidates(self, query: Vectors, near: Found, count: int, selection: Selection) -> Rows:
        """At most ``count`` selected rows of the lists ``near``, the likeliest by their codes first."""

    def refined(self, query: Vectors, k: int, rows: Rows) -> Found:
        """The best ``k`` of ``rows``, which are at least as many, by whole vectors."""


class OneFile:
    """A faiss.IndexRefineFlat over IndexIVFPQ."""

    def __init__(self, index: Any) -> None:
        self._index = index  # owns the others
        self._base = faiss.downcast_index(index.base_index)
        self._quantizer = faiss.downcast_index(self._base.quantizer)
        self._full = faiss.downcast_index(index.refine_index)
        self.nlist = int(self._base.nlist)

    def nearest(self, query: Vectors, count: int) -> Found:
        similar, lists = self._quantizer.search(query, count)
        return similar[0], lists[0]

    def rows(self, lists: Rows) -> Sequence[Rows]:
        return rows_of(self._base, lists)

    def candidates(self, query: Vectors, near: Found, count: int, selection: Selection) -> Rows:
        selector = faiss.IDSelectorBitmap(selection.bits())
        _, rows = search_lists(self._base, query, (near[0][np.newaxis], near[1][np.newaxis]), count, selector)
        found: Rows = rows[0, rows[0] >= 0]
        return found

    def refined(self, query: Vectors, k: int, rows: Rows) -> Found:
        scores, best = self._full.search(query, k, params=faiss.SearchParameters(sel=faiss.IDSelectorArray(rows)))
        return scores[0], best[0]


def similarities(query: Vectors, vectors: Vectors) -> Vectors:
    """Inner products float32[m] of a query float32[dim] with vectors float32[m, dim], both contiguous, on the calling thread.

    numpy's own product wakes a thread for each core of the host.
    """
    scores = np.empty(len(vectors), np.float32)
    both = faiss.swig_ptr(query), faiss.swig_ptr(vectors)
    faiss.fvec_inner_products_ny(faiss.swig_ptr(scores), *both, vectors.shape[1], len(vectors))
    return scores


def rows_of(base: Any, lists: Rows) -> Sequence[Rows]:
    """Rows that an IVF index keeps in each list; views of its memory."""
    stored = base.invlists
    sizes = [(number, stored.list_size(number)) for number in lists.tolist()]
    return [faiss.rev_swig_ptr(stored.get_ids(number), size) if size else NOTHING[1] for number, size in sizes]


def search_lists(base: Any, queries: Vectors, near: Found, count: int, selector: Any = None) -> Found:
    """Scores by codes float32[n, count] and rows int64[n, count] of an IVF index, -1 where there are fewer.

    Args:
        base: an IVF index.
        queries: float32[n, dim], contiguous.
        near: similarities float32[n, lists] and lists int64[n, lists], which were found by its quantizer; contiguous.
        count: of rows wanted for each query.
        selector: of the rows that may be found; None: all.
    """
    scores, rows = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    base.search_preassigned_c(  # the wrapper that takes arrays has no parameters, hence no selector
        len(queries),
        faiss.swig_ptr(queries),
        count,
        faiss.swig_ptr(near[1]),
        faiss.swig_ptr(near[0]),
        faiss.swig_ptr(scores),
        faiss.swig_ptr(rows),
        False,
        faiss.SearchParametersIVF(nprobe=near[1].shape[1], sel=selector),
    )
    return scores, rows
