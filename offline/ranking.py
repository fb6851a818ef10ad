"""Exact search, and nDCG@10 of its answers: the oracle that every approximation is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Judgements = Mapping[int, int]
"""Document row -> judged score, for one query."""

_CUT = 10


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
    """Mean share of each row of ``exact`` int64[n, k] that stands anywhere in the same row of ``found`` int64[n, >= k]."""
    shares = [len(np.intersect1d(ours, best)) / len(best) for ours, best in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def ndcg_at_10(rows: Rows, judgements: Sequence[Judgements]) -> NDArray[np.float64]:
    """nDCG@10 of each query with linear gain, as trec_eval and ir-measures compute it (Järvelin and Kekäläinen, 2002).

    Args:
        rows: int64[n, >= 10 or the number of documents], best first; -1 marks an empty place.
        judgements: one mapping a query; rows not in it, and scores below 1, count as irrelevant.

    Returns:
        float64[n]; 0 where a query has nothing relevant.
    """
    discounts = 1.0 / np.log2(np.arange(2, _CUT + 2))
    return np.array([_ndcg(found[:_CUT], judged, discounts) for found, judged in zip(rows, judgements, strict=True)])


def _ndcg(found: Rows, judged: Judgements, discounts: NDArray[np.float64]) -> float:
    gains = np.array([max(judged.get(int(row), 0), 0) for row in found], np.float64)
    ideal = np.array(sorted((score for score in judged.values() if score > 0), reverse=True)[:_CUT], np.float64)
    best = float(ideal @ discounts[: len(ideal)])
    return float(gains @ discounts[: len(gains)]) / best if best else 0.0
