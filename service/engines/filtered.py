"""Searching a FAISS index among selected rows: deeper until the answer is settled, or exactly where that is cheaper.

A filter moves the nearest eligible rows away from the query: by 1 / share if it is independent of the query, and by any
distance if it is not (the query's own neighbourhood may be what it excludes). So no search is trusted by its depth alone:
each shows by what it found that it looked far enough, else it goes on, as long as comparing with every selected row would
cost more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from service.engines.base import Rows, Vectors
from service.engines.costs import FEW, Costs, Curve, measure
from service.engines.stored import MEASURED_K, NOTHING, Found, Stored, rows_compared
from snapshot.manifest import IvfPqIndex, ShardedIndex
from snapshot.selection import Bits, Selection

_BEAM_PER_RANK = 2
"""efSearch e + 2 r finds the rows around rank r as surely as e finds the first ones (measured, docs/log.md)."""

_LOOK, _MOST_DEEPER = 8, 8
"""The nearest lists show whether the filter excludes what is near; if so, more lists are needed, at first up to so many times."""

_EFFORTS, LISTS_MEASURED, ROWS_MEASURED = (64, 256, 1024), (8, 64), (256, 4096, 32768)
"""At which costs are measured; together some 50 ms on a large index."""
_APART = 4
"""Rows between two that are compared: far enough for each to be a look of its own into memory."""
_STRIDE = 7919
"""A prime, so that the queries are spread over the index."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One search for ``k`` of the selected rows, which are at least that many.

    Attributes:
        query: float32[1, dim].
        effort: what a search without a filter would get.
    """

    query: Vectors
    k: int
    effort: int
    selection: Selection

    @property
    def share(self) -> float:
        """Of the rows that are selected."""
        return self.selection.count / self.selection.total


class Graph:
    """An HNSW index."""

    def __init__(self, index: Any, costs: Costs) -> None:
        self._index = index
        self._costs = costs

    def search(self, wanted: Wanted) -> Found | None:
        """The nearest selected rows, from a search that ignores the filter; None where exact search is cheaper.

        It is settled if the k-th selected row stands high enough among all that the search has found: then the rows down
        to there are known, and none better was missed because the filter led astray.
        """
        reach, left_ms = _reach(wanted.effort, _rank(wanted.k, wanted.share)), self._costs.exact.at(wanted.selection.count)
        while reach < self._index.ntotal:
            left_ms -= self._costs.approximate_ms(reach, wanted.selection)
            if left_ms <= 0:
                break
            scores, rows = self._index.search(wanted.query, reach, params=faiss.SearchParametersHNSW(efSearch=reach))
            ranks = np.flatnonzero(_selected(wanted.selection.bits(), rows[0]))
            if len(ranks) < wanted.k:
                density = (len(ranks) + 1) / reach
                reach = min(4 * reach, max(2 * reach, _reach(wanted.effort, _rank(wanted.k, density))))
                continue
            needed = _reach(wanted.effort, int(ranks[wanted.k - 1]) + 1)
            if needed <= reach:
                best = ranks[: wanted.k]
                return scores[0, best], rows[0, best]
            reach = max(needed + needed // 4, reach + reach // 2)
        return None


def _rank(k: int, share: float) -> int:
    """Above which the k-th selected row stands most probably: mean and two deviations, if rows are selected by chance."""
    return math.ceil((k + 2 * math.sqrt(k)) / share)


def _reach(effort: int, rank: int) -> int:
    return effort + _BEAM_PER_RANK * rank


def _selected(bits: Bits, rows: Rows) -> npt.NDArray[np.bool_]:
    """bool[n] for int64[n] ``rows``; false for -1, with which FAISS fills up."""
    found: npt.NDArray[np.bool_] = (rows >= 0) & ((bits[rows >> 3] >> (rows & 7) & 1) == 1)
    return found


class Lists:
    """An index of inverted lists with refinement, to be searched list by list."""

    def __init__(self, stored: Stored, described: IvfPqIndex | ShardedIndex, costs: Costs) -> None:
        self._stored = stored
        self._described = described
        self._costs = costs

    def search(self, wanted: Wanted) -> Found | None:
        """The nearest selected rows, from the lists nearest to the query; None where exact search is cheaper.

        It is settled if as many lists again, and as many candidates again of each, have changed no more of the rows than
        this effort misses without a filter. Candidates are what codes put first, so they are many where a filter leaves
        rows that are all about equally far. Few hits are the first of ten: that one of them stays the same shows little.
        """
        k, wanted = wanted.k, replace(wanted, k=max(wanted.k, min(MEASURED_K, wanted.selection.count)))
        enough = rows_compared(wanted.k, self._described.refine_factor)
        tolerated = wanted.k * (1 - _recall(self._described, wanted.effort))
        left_ms = self._costs.exact.at(wanted.selection.count)
        best = NOTHING
        for similar, lists in self._nearest(wanted):
            for count in (2 * enough, 8 * enough):
                left_ms -= self._costs.approximate_ms(len(lists), wanted.selection) + self._costs.exact.at(count)
                if left_ms <= 0:
                    return None
                near, most = (similar, lists), min(count, wanted.selection.count)
                found = self._stored.candidates(wanted.query, near, most, wanted.selection)
                now = self._refined(wanted, np.concatenate([best[1], found]))
                if _in_common(now[1], found[count // 2 :]) <= tolerated:
                    break
            else:
                return None
            before, best = best, now
            fresh = wanted.k - _in_common(best[1], before[1])
            if fresh <= tolerated and len(before[1]) == wanted.k and len(found) >= min(enough, wanted.selection.count):
                break
        return (best[0][:k], best[1][:k]) if len(best[1]) == wanted.k else None

    def _nearest(self, wanted: Wanted) -> Iterator[Found]:
        """Similarities and lists, nearest first: half as many as seem to be needed here, then each time as many again."""
        total, share = self._stored.nlist, wanted.share
        end = _half_of(wanted.effort / share, total)
        if self._costs.approximate_ms(2 * end, wanted.selection) >= self._costs.exact.at(wanted.selection.count):
            return  # the first ones never settle anything
        similar, lists = self._stored.nearest(wanted.query, min(total, max(_LOOK, 4 * end)))
        share = min(share, max(self._share_near(lists[:_LOOK], wanted.selection), share / _MOST_DEEPER))
        begun, end = 0, _half_of(wanted.effort / share, total)
        while begun < total:
            if end > len(lists):
                similar, lists = self._stored.nearest(wanted.query, total)
            yield similar[begun:end], lists[begun:end]
            begun, end = end, min(total, 2 * end)

    def _share_near(self, lists: Rows, selection: Selection) -> float:
        """The least share of rows that may be selected of the first list, the first two, and so on: two deviations up."""
        rows = self._stored.rows(lists)
        sizes = np.cumsum([len(each) for each in rows])
        selected = np.append(0, np.cumsum(_selected(selection.bits(), np.concatenate(rows))))[sizes]
        return float(((selected + 2 * np.sqrt(selected + 1) + 1) / np.maximum(sizes, 1)).min())

    def _refined(self, wanted: Wanted, rows: Rows) -> Found:
        k = min(wanted.k, len(rows))
        if k == 0:
            return NOTHING
        return self._stored.refined(wanted.query, k, rows)


def _half_of(needed: float, total: int) -> int:
    return min(total, max(1, math.ceil(needed / 2)))


def _in_common(rows: Rows, others: Rows) -> int:
    return len(set(rows.tolist()).intersection(others.tolist()))


def _recall(described: IvfPqIndex | ShardedIndex, effort: int) -> float:
    """Measured recall at the greatest effort of the table that is not above this one."""
    below = [row.recall_at_10 for row in described.efforts if row.effort <= effort]
    return below[-1] if below else described.efforts[0].recall_at_10


def measure_graph(index: Any, flat: Any) -> Costs:
    """What searching an HNSW index costs here."""

    def search(effort: int) -> object:
        return index.search(_query(flat, effort), effort, params=faiss.SearchParametersHNSW(efSearch=effort))

    beam = measure(sizes_below(_EFFORTS, index.ntotal), search)
    return Costs(_measure_exact(flat), beam, beam)


def measure_lists(index: Any, flat: Any, described: IvfPqIndex) -> Costs:
    """What searching an IVF-PQ index costs here, among all rows and among few of them."""
    few = np.zeros(index.ntotal, dtype=np.bool_)
    few[::FEW] = True

    def search(selector: Any, lists: int) -> object:
        probes = faiss.SearchParametersIVF(nprobe=lists, sel=selector)
        refined = faiss.IndexRefineSearchParameters(k_factor=described.refine_factor, base_index_params=probes)
        return index.search(_query(flat, lists), 10, params=refined)

    sizes = sizes_below(LISTS_MEASURED, described.nlist)
    selector = faiss.IDSelectorBitmap(np.packbits(few, bitorder="little"))
    return Costs(_measure_exact(flat), measure(sizes, partial(search, None)), measure(sizes, partial(search, selector)))


def _measure_exact(flat: Any) -> Curve:
    def search(rows: int) -> object:
        step = max(1, min(flat.ntotal // rows, _APART))  # not all over the index: what is touched stays in memory
        selector = faiss.IDSelectorArray(np.arange(0, rows * step, step, dtype=np.int64))
        return flat.search(_query(flat, rows), 1, params=faiss.SearchParameters(sel=selector))

    return measure(sizes_below(ROWS_MEASURED, flat.ntotal), search)


def _query(flat: Any, number: int) -> Vectors:
    """One of the index's own vectors, as a query."""
    vector: Vectors = flat.reconstruct(number * _STRIDE % flat.ntotal)[np.newaxis]
    return vector


def sizes_below(sizes: Sequence[int], most: int) -> list[int]:
    """Those that are at most ``most``, and that in place of larger ones."""
    return sorted({min(size, most) for size in sizes})
