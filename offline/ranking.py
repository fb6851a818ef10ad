"""Exact search, the oracle that every approximation is measured against, and recall against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
_TIE = 1e-5
"""float32 sums taken in another order differ by about 1e-6; scores nearer than this are equally good."""


class Blocks(Protocol):
    """Vectors float32[m, dim] that need not fit into memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows m, and dim."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """The first row of each block, and its vectors, in order."""


def exact_top_k(queries: Floats, documents: Floats | Blocks, k: int) -> tuple[Floats, Rows]:
    """The best rows by inner product, compared with every row.

    Args:
        queries: float32[n, dim].
        documents: float32[m, dim]; may be memory-mapped, or come block by block.
        k: cut to m where there are fewer documents.

    Returns:
        Scores float32[n, k], descending, and rows int64[n, k].
    """
    if not isinstance(documents, np.ndarray):
        found = ((exact_top_k(queries, block, k), start) for start, block in documents.blocks())
        return merge_top_k(((scores, rows + start) for (scores, rows), start in found), k)
    k = min(k, len(documents))
    scores, rows = faiss.knn(
        np.ascontiguousarray(queries, np.float32),
        np.ascontiguousarray(documents, np.float32),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return scores, rows


def merge_top_k(found: Iterable[tuple[Floats, Rows]], k: int) -> tuple[Floats, Rows]:
    """The best ``k`` of several answers to the same queries: scores float32[n, any] and rows int64[n, any] of each."""
    best: tuple[Floats, Rows] | None = None
    for each in found:
        joined = each if best is None else (np.hstack([best[0], each[0]]), np.hstack([best[1], each[1]]))
        order = np.argsort(-joined[0], axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(joined[0], order, axis=1), np.take_along_axis(joined[1], order, axis=1)
    if best is None:
        raise ValueError("no answers to merge")
    return best


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


def recall_of(found: tuple[Floats, Rows], exact: tuple[Floats, Rows]) -> float:
    """As ``recall_with_ties``, where a row of exact search counts with whatever score it was found.

    Args:
        found: scores float32[n, k] and rows int64[n, k].
        exact: those of ``exact_top_k``.
    """
    among = (found[1][:, :, np.newaxis] == exact[1][:, np.newaxis, :]).any(axis=2)
    return float(np.mean(among | (found[0] >= exact[0][:, -1:] - _TIE)))


def scores_of(queries: Floats, documents: Floats | Blocks, rows: Rows) -> Floats:
    """Inner products float32[n, k] of queries float32[n, dim] with their rows int64[n, k]; -inf where the row is -1."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    for start, block in [(0, documents)] if isinstance(documents, np.ndarray) else documents.blocks():
        at, place = np.nonzero((rows >= start) & (rows < start + len(block)))
        scores[at, place] = np.einsum("nd,nd->n", queries[at], block[rows[at, place] - start])
    return scores


def ties_as_found(exact: tuple[Floats, Rows], found: tuple[Floats, Rows]) -> Rows:
    """Rows int64[n, k] that are as good as those of exact search, with those that were found where several are equally good.

    Args:
        exact: those of ``exact_top_k``.
        found: rows int64[n, any] and what ``scores_of`` says of them.
    """
    return np.array([_ties_as_found(*of_one) for of_one in zip(*exact, *found, strict=True)], dtype=np.int64)


def _ties_as_found(scores: Floats, rows: Rows, found_scores: Floats, found_rows: Rows) -> Rows:
    better = rows[scores > scores[-1] + _TIE]
    as_good = found_rows[found_scores >= scores[-1] - _TIE]
    _, first = np.unique(every := np.concatenate([better, as_good, rows]), return_index=True)
    return every[np.sort(first)][: len(rows)]
