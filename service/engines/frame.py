"""What engines over FAISS share: threads, blanks, and answers under a filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np

from service.engines.base import NO_ROW, NO_SCORE, Hits, Rows, Vectors
from service.engines.filtered import Wanted
from service.engines.stored import Found
from snapshot.selection import Selection

Exact = Callable[[Vectors, int, Selection | None], Hits]
"""``Engine.exact``."""


class Way(Protocol):
    """How to search among selected rows, other than by comparing with each."""

    def search(self, wanted: Wanted) -> Found | None:
        """None where exact search is cheaper."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A search among selected rows: queries float32[n, dim], contiguous."""

    queries: Vectors
    k: int
    effort: int
    selection: Selection


def use_one_thread() -> None:
    """For the calling thread, which must do so each time that it calls FAISS (0.2 microseconds).

    OpenMP keeps its number of threads per calling thread, and makes a pool for each (facebookresearch/faiss#2731).
    """
    faiss.omp_set_num_threads(1)


def blanks(queries: int, k: int) -> Hits:
    """No hit for any query."""
    return Hits(np.full((queries, k), NO_SCORE, dtype=np.float32), np.full((queries, k), NO_ROW, dtype=np.int64))


def answer_filtered(way: Way, exact: Exact, ask: Ask) -> Hits:
    """Each query by itself: one may have its neighbourhood in the selection, another not."""
    hits, wanted = blanks(len(ask.queries), ask.k), min(ask.k, ask.selection.count)
    use_one_thread()
    short = []
    for number in range(len(ask.queries) if wanted else 0):
        query = np.ascontiguousarray(ask.queries[number : number + 1], dtype=np.float32)
        found = way.search(Wanted(query, wanted, ask.effort, ask.selection))
        if found is None:
            short.append(number)
        else:
            hits.scores[number, :wanted], hits.rows[number, :wanted] = found
    return refill(exact, hits, np.array(short), ask.queries, ask.selection) if short else hits


def refill(exact: Exact, hits: Hits, short: Rows, queries: Vectors, selection: Selection | None) -> Hits:
    """Answer the ``short`` queries exactly: never silently fewer results."""
    found = exact(queries[short], hits.rows.shape[1], selection)
    if len(short) == len(queries):
        return found
    hits.scores[short], hits.rows[short] = found.scores, found.rows
    return hits
