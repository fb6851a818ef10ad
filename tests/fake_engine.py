"""Engines without a library: brute force in numpy, and one that finds nothing."""

from __future__ import annotations

import numpy as np

from service.engines.base import NO_ROW, NO_SCORE, Hits, Vectors
from snapshot.selection import Selection


class NumpyEngine:
    """Every search is exact."""

    def __init__(self, documents: Vectors) -> None:
        self._documents = documents
        self.count, self.dim = documents.shape
        self.closed = False

    def search(self, queries: Vectors, k: int, effort: int, selection: Selection | None = None, deadline=None) -> Hits:
        return self.exact(queries, k, selection)

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None, deadline=None) -> Hits:
        scores = queries @ self._documents.T
        if selection is not None:
            scores[:, (~selection).rows()] = NO_SCORE
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, rows, axis=1)
        blanks = ((0, 0), (0, k - rows.shape[1]))
        rows = np.where(np.isneginf(best), NO_ROW, rows)
        return Hits(np.pad(best, blanks, constant_values=NO_SCORE), np.pad(rows, blanks, constant_values=NO_ROW))

    def close(self) -> None:
        self.closed = True


class NullEngine:
    """Has no rows."""

    dim = 1
    count = 0

    def search(self, queries: Vectors, k: int, effort: int, selection: Selection | None = None, deadline=None) -> Hits:
        return self.exact(queries, k, selection)

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None, deadline=None) -> Hits:
        shape = (len(queries), k)
        return Hits(np.full(shape, NO_SCORE, np.float32), np.full(shape, NO_ROW, np.int64))

    def close(self) -> None:
        """Nothing is open."""
