"""One FAISS index in several memory-mapped files, searched side by side on several threads and merged.

The files share rotation, centroids and codebooks, so a query is rotated and its nearest lists are found once, what the files
say of their rows by codes can be compared, and the whole vectors of the best over all files alone are read: the answer is
that of one file with all rows. The work is more: each file begins every probed list anew (docs/sharding.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np

from service.deadline import Deadline
from service.engines.base import NO_ROW, Hits, Rows, Vectors
from service.engines.costs import FEW, Costs, measure
from service.engines.filtered import LISTS_MEASURED, ROWS_MEASURED, Lists, sizes_below
from service.engines.frame import Ask, answer_filtered, blanks, refill, use_one_thread
from service.engines.mapped import AGAIN, read_index
from service.engines.stored import Found, rows_compared, rows_of, search_lists, similarities
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import ShardedIndex
from snapshot.selection import Selection

T = TypeVar("T")
_LISTS = {"opq": faiss.IndexIVFPQ, "rabitq": faiss.IndexIVFRaBitQ}
_WHOLE = {"fp32": faiss.IndexFlatIP, "fp16": faiss.IndexScalarQuantizer, "int8": faiss.IndexScalarQuantizer}
_BLOCK_ROWS = 4096
"""Compared at a time where few rows of a file are eligible."""
_STRIDE = 7919
"""A prime, so that the queries are spread over the index."""
_SCAN_SHARE = 8
"""Where one row in so many is eligible, reading a whole file in order is cheaper than fetching them."""


class Part:
    """One file: an index of its own over ``count`` rows, which are rows ``start`` and on of the whole."""

    def __init__(self, index: Any, start: int) -> None:
        self._index = index  # owns the others
        rotated = faiss.downcast_index(index.base_index)
        self.rotation = faiss.downcast_VectorTransform(rotated.chain.at(0))
        self.lists = faiss.downcast_index(rotated.index)
        self._full = faiss.downcast_index(index.refine_index)
        self.start, self.count = start, int(index.ntotal)

    def candidates(self, rotated: Vectors, near: Found, count: int, selection: Selection | None) -> Found:
        """By codes: float32 and int64[n, at most count], -1 where there are fewer; rows of the whole."""
        if selection is not None and selection.count == 0:
            return _nothing(len(rotated))
        selector = None if selection is None else faiss.IDSelectorBitmap(selection.bits())
        scores, rows = search_lists(self.lists, rotated, near, min(count, self.count), selector)
        rows[rows >= 0] += self.start
        return scores, rows

    def compare(self, query: Vectors, rows: Rows) -> Vectors:
        """Scores float32[m] of rows of the whole, by whole vectors."""
        return similarities(query, self._full.reconstruct_batch(rows - self.start))

    def exact(self, queries: Vectors, k: int, selection: Selection | None) -> Found:
        """The best of every eligible row: float32 and int64[n, at most k], -1 where there are fewer; rows of the whole."""
        eligible = self.count if selection is None else selection.count
        if eligible * _SCAN_SHARE < self.count and selection is not None:
            return self._fetched(queries, min(k, eligible), selection.rows())
        selector = None if selection is None else faiss.IDSelectorBitmap(selection.bits())
        scores, rows = self._full.search(queries, min(k, eligible), params=faiss.SearchParameters(sel=selector))
        rows[rows >= 0] += self.start
        return scores, rows

    def _fetched(self, queries: Vectors, k: int, rows: Rows) -> Found:
        found = _nothing(len(queries))
        for begin in range(0, len(rows), _BLOCK_ROWS):
            some = np.ascontiguousarray(rows[begin : begin + _BLOCK_ROWS])
            vectors = self._full.reconstruct_batch(some)
            scores = np.stack([similarities(query, vectors) for query in queries])
            block = scores, np.broadcast_to(some + self.start, scores.shape)
            found = merge([found, block], k)
        return found

    def vectors(self, rows: Rows) -> Vectors:
        """Whole vectors float32[m, dim] of rows of this file."""
        vectors: Vectors = self._full.reconstruct_batch(rows)
        return vectors


class Parts:
    """All files, each searched on one of several threads: a ``Stored`` whose rows are those of the whole."""

    def __init__(self, parts: Sequence[Part], threads: int) -> None:
        self.parts = parts
        self.nlist = int(parts[0].lists.nlist)
        self.count = sum(part.count for part in parts)
        self._starts = np.array([part.start for part in parts], np.int64)
        self._quantizer = faiss.downcast_index(parts[0].lists.quantizer)
        self._groups = [parts[number::threads] for number in range(min(threads, len(parts)))]
        self._pool = ThreadPoolExecutor(max(1, len(self._groups) - 1), "shards")
        self._sliced: tuple[Selection | None, Sequence[Selection | None]] = None, [None] * len(parts)

    def rotated(self, queries: Vectors) -> Vectors:
        """Queries float32[n, dim] as the lists have them."""
        turned: Vectors = self.parts[0].rotation.apply(queries)
        return turned

    def near(self, rotated: Vectors, lists: int) -> Found:
        """Similarities float32[n, lists] and the nearest lists int64[n, lists]."""
        similar, found = self._quantizer.search(rotated, lists)
        return similar, found

    def ranked(self, rotated: Vectors, near: Found, count: int, selection: Selection | None) -> Found:
        """Of all files, by codes, best first."""
        slices = self.slices(selection)
        return merge(self._each(lambda number, part: part.candidates(rotated, near, count, slices[number])), count)

    def best(self, query: Vectors, k: int, rows: Rows) -> Found:
        """The best ``k`` of ``rows`` int64[m] for one query float32[dim], by whole vectors."""
        where = np.searchsorted(self._starts, rows, side="right") - 1
        scores = np.empty(len(rows), np.float32)

        def compare(number: int, part: Part) -> None:
            mine = where == number
            if mine.any():
                scores[mine] = part.compare(query, rows[mine])

        self._each(compare)
        order = np.argsort(-scores, kind="stable")[:k]
        return scores[order], rows[order]

    def exact(self, queries: Vectors, k: int, selection: Selection | None) -> Found:
        """Of every eligible row of all files."""
        slices = self.slices(selection)
        return merge(self._each(lambda number, part: part.exact(queries, k, slices[number])), k)

    def slices(self, selection: Selection | None) -> Sequence[Selection | None]:
        """What is selected of each file; remembered for the last selection, which one search asks for several times."""
        known, slices = self._sliced
        if selection is not known or selection is None:
            slices = [None if selection is None else selection.part(part.start, part.count) for part in self.parts]
            self._sliced = selection, slices
        return slices

    def nearest(self, query: Vectors, count: int) -> Found:
        similar, lists = self.near(self.rotated(query), count)
        return similar[0], lists[0]

    def rows(self, lists: Rows) -> Sequence[Rows]:
        files = [[rows + part.start for rows in rows_of(part.lists, lists)] for part in self.parts]
        return [np.concatenate(each) for each in zip(*files, strict=True)]

    def candidates(self, query: Vectors, near: Found, count: int, selection: Selection) -> Rows:
        nearest = np.ascontiguousarray(near[0][np.newaxis]), np.ascontiguousarray(near[1][np.newaxis])
        _, rows = self.ranked(self.rotated(query), nearest, count, selection)
        found: Rows = rows[0, rows[0] >= 0]
        return found

    def refined(self, query: Vectors, k: int, rows: Rows) -> Found:
        return self.best(query[0], k, rows)

    def close(self) -> None:
        """End the threads and unmap the files; a second call does nothing."""
        self._pool.shutdown()
        self.parts, self._groups, self._quantizer = (), [], None

    def _each(self, work: Callable[[int, Part], T]) -> list[T]:
        """``work`` on every file by its number, on all threads; the caller's is one of them."""

        def some(group: int) -> list[T]:
            use_one_thread()
            width = len(self._groups)
            return [work(group + place * width, part) for place, part in enumerate(self._groups[group])]

        others = [self._pool.submit(some, group) for group in range(1, len(self._groups))]
        found = some(0)
        return [*found, *chain.from_iterable(other.result() for other in others)]


class ShardedEngine:
    """An Engine over the files of an index of kind ``sharded``."""

    def __init__(self, parts: Parts, described: ShardedIndex, dim: int, costs: Costs | None = None) -> None:
        use_one_thread()
        self._parts = parts
        self._described = described
        self.dim = dim
        self.count = parts.count
        self._ways = Lists(parts, described, costs or self._measured())

    @classmethod
    def open(
        cls, files: Sequence[Path], described: ShardedIndex, dim: int, threads: int = 1, costs: Costs | None = None
    ) -> ShardedEngine:
        """Memory-map verified files.

        Args:
            files: in the order of their rows.
            described: what the manifest says of them.
            dim: of the manifest's space.
            threads: of one search.
            costs: of searching; measured here unless given.

        Raises:
            IntegrityError: one is not a FAISS index of the kind that the manifest describes, or has other rows.
            SpaceMismatchError: vectors are not ``dim`` wide.
        """
        starts = accumulate(described.parts, initial=0)
        parts = [
            Part(_checked(path, described, rows, dim), start)
            for path, rows, start in zip(files, described.parts, starts, strict=False)
        ]
        for part, path in zip(parts, files, strict=True):
            _check_same(parts[0], part, path)
        return cls(Parts(parts, threads), described, dim, costs)

    def search(
        self,
        queries: Vectors,
        k: int,
        effort: int,
        selection: Selection | None = None,
        deadline: Deadline | None = None,  # noqa: ARG002 - a call into FAISS cannot be ended
    ) -> Hits:
        """Approximate search; exact for the queries that it left short of hits, and where that is cheaper."""
        if selection is not None and selection.count < self.count:
            return answer_filtered(self._ways, self.exact, Ask(queries, k, effort, selection))
        asked, hits = np.ascontiguousarray(queries, np.float32), blanks(len(queries), k)
        if k == 0 or len(asked) == 0:
            return hits
        use_one_thread()
        short = self._fill(hits, asked, min(k, self.count), effort)
        return refill(self.exact, hits, np.array(short), asked, None) if short else hits

    def _fill(self, hits: Hits, queries: Vectors, k: int, effort: int) -> list[int]:
        """Answer each query; the numbers of those that were left short."""
        rotated = self._parts.rotated(queries)
        near = self._parts.near(rotated, min(max(effort, 1), self._described.nlist))
        likely = self._parts.ranked(rotated, near, min(rows_compared(k, self._described.refine_factor), self.count), None)[1]
        short = []
        for number, rows in enumerate(likely):
            there = rows[rows != NO_ROW]
            if len(there) < k:
                short.append(number)
            else:
                hits.scores[number, :k], hits.rows[number, :k] = self._parts.best(queries[number], k, there)
        return short

    def exact(
        self,
        queries: Vectors,
        k: int,
        selection: Selection | None = None,
        deadline: Deadline | None = None,  # noqa: ARG002 - as above
    ) -> Hits:
        """Compare with every eligible row."""
        hits = replace(blanks(len(queries), k), exact=True)
        wanted = min(k, self.count if selection is None else selection.count)
        if wanted and len(queries):
            found = self._parts.exact(np.ascontiguousarray(queries, np.float32), wanted, selection)
            hits.scores[:, :wanted], hits.rows[:, :wanted] = found
        return hits

    def close(self) -> None:
        """End the threads and unmap the files."""
        self._parts.close()

    def _measured(self) -> Costs:
        """What searching these files costs here, among all rows and among few of them."""
        few = np.zeros(self.count, np.bool_)
        few[::FEW] = True
        sizes = sizes_below(LISTS_MEASURED, self._described.nlist)
        return Costs(
            measure(sizes_below(ROWS_MEASURED, self.count), self._compare_rows),
            measure(sizes, partial(self._search_lists, None)),
            measure(sizes, partial(self._search_lists, Selection.of_mask(few))),
        )

    def _compare_rows(self, rows: int) -> object:
        chosen = np.arange(rows, dtype=np.int64)
        return self._parts.best(self._own_vector(rows)[0], 1, chosen)

    def _search_lists(self, selection: Selection | None, lists: int) -> object:
        query = self._own_vector(lists)
        rotated = self._parts.rotated(query)
        found = self._parts.ranked(rotated, self._parts.near(rotated, lists), 10 * self._described.refine_factor, selection)[1][0]
        return self._parts.best(query[0], 10, found[found != NO_ROW])

    def _own_vector(self, number: int) -> Vectors:
        first = self._parts.parts[0]
        return first.vectors(np.array([number * _STRIDE % first.count], np.int64))


def merge(found: Sequence[Found], k: int) -> Found:
    """The best of several answers to the same queries: float32 and int64[n, at most k], best first, -1 last."""
    scores, rows = np.hstack([each[0] for each in found]), np.hstack([each[1] for each in found])
    scores = np.where(rows == NO_ROW, -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _nothing(queries: int) -> Found:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def _checked(path: Path, described: ShardedIndex, rows: int, dim: int) -> Any:
    """The index in ``path``, if it is what the manifest describes."""
    index = read_index(path)
    if index.d != dim:
        raise SpaceMismatchError(f"{path}: vectors of {index.d} dimensions, the manifest's space has {dim}; {AGAIN}")
    expected = ["IndexPreTransform", _LISTS[described.codes].__name__, _WHOLE[described.refine].__name__]
    found = _kinds(index)
    if found != expected or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IntegrityError(
            f"{path}: holds {' '.join(found) or type(index).__name__} with metric {index.metric_type}, the manifest says "
            f"{' '.join(expected)} by inner product; {AGAIN}"
        )
    lists = faiss.downcast_index(faiss.downcast_index(index.base_index).index)
    for what, there, said in (("rows", index.ntotal, rows), ("lists", lists.nlist, described.nlist)):
        if there != said:
            raise IntegrityError(f"{path}: has {there} {what}, the manifest says {said}; {AGAIN}")
    return index


def _kinds(index: Any) -> list[str]:
    """Of base, lists and whole vectors; empty where it is not of this form at all."""
    if not isinstance(index, faiss.IndexRefine):
        return []
    base = faiss.downcast_index(index.base_index)
    if not isinstance(base, faiss.IndexPreTransform):
        return [type(base).__name__]
    return [type(each).__name__ for each in (base, faiss.downcast_index(base.index), faiss.downcast_index(index.refine_index))]


def _check_same(first: Part, part: Part, path: Path) -> None:
    """A file of another training would be searched in the wrong lists, and nothing would say so."""
    for number in (0, int(first.lists.nlist) - 1):
        ours, theirs = (faiss.downcast_index(each.lists.quantizer).reconstruct(number) for each in (first, part))
        if not np.array_equal(ours, theirs):
            raise IntegrityError(f"{path}: list {number} has another centroid than in the first file; {AGAIN}")
