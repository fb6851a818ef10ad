"""Exact search, the oracle that every approximation is measured against, and recall against it."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
_TIE = 1e-5
"""float32 sums taken in another order differ by about 1e-6; scores nearer than this are equally good."""


def exact_top_k(queries: Floats, documents: Floats, k: int) -> tuple[Floats, Rows]:
    """The best rows by inner product, compared with every row.

    Args:
        queries: float32[n, dim].
        documents: float32[m, dim]; may be memory-mapped.
        k: cut to m where there are fewer documents.

    Returns:
        Scores float32[n, k], descending, and rows int64[n, k].
    """
    k = min(k, len(documents))
    scores, rows = faiss.knn(
        np.ascontiguousarray(queries, np.float32),
        np.ascontiguousarray(documents, np.float32),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return scores, rows


def recall(found: Rows, exact: Rows) -> float:
    """Mean share of each row of ``exact`` int64[n, k] that stands anywhere in the same row of ``found`` int64[n, any]."""
    shares = [len(np.intersect1d(ours, best)) / len(best) for ours, best in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def recall_with_ties(found: Floats, exact: Floats) -> float:
    """Mean share of hits that score as well as the k-th of exact search: equal documents stand in for each other.

    Args:
        found: scores float32[n, k] of distinct rows; empty places are below every score.
        exact: scores float32[n, k] of ``exact_top_k``.
    """
    return float(np.mean(found >= exact[:, -1:] - _TIE))
