"""Retrieval metrics per query, by ir-measures (which drives trec_eval's code)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import RR, R, nDCG

from offline.bootstrap import Values
from offline.judged import Judged

NDCG = "nDCG@10"
RECALL_10 = "Recall@10"
RECALL_100 = "Recall@100"
MRR = "MRR@10"
METRICS = (NDCG, RECALL_10, RECALL_100, MRR)
DEPTH = 100
"""How many documents of each ranking the metrics read."""

Rows = npt.NDArray[np.int64]
Judgements = Sequence[Mapping[int, int]]


def score(judged: Judged, rows: Rows) -> dict[str, Values]:
    """Each of ``METRICS`` as float64[q], for rankings ``rows`` int64[q, k], best first; -1 fills up short rankings.

    A query's own document does not count as found: ask for ``judged.depth(k)``.

    nDCG has the gain 2^score - 1 (Burges et al., ICML 2005), which for binary judgements is the plain one. Recall and
    MRR count scores from ``judged.relevance`` on.
    """
    relevant = {
        R(rel=judged.relevance) @ 10: RECALL_10,
        R(rel=judged.relevance) @ 100: RECALL_100,
        RR(rel=judged.relevance) @ 10: MRR,
    }
    return {NDCG: ndcg(judged, rows), **_calculate(relevant, judged, judged.judgements, rows)}


def ndcg(judged: Judged, rows: Iterable[Iterable[int]]) -> Values:
    """nDCG@10 as float64[q], for rankings of any lengths, without each query's own document."""
    # Gains stand in the judgements: ir-measures' own gains= drops grades that map to themselves, so grade 1 would gain 0.
    gains = [{row: 2 ** max(grade, 0) - 1 for row, grade in scores.items()} for scores in judged.judgements]
    return _calculate({nDCG @ 10: NDCG}, judged, gains, rows)[NDCG]


def merge_depths(page: Rows, deep: Rows) -> Rows:
    """Rankings int64[q, d]: the rows of ``page`` int64[q, p] first, then those of ``deep`` int64[q, d] that are not among them.

    For approximate search, which looks harder when it is asked for more: a caller who wants ten hits gets ``page``, not
    the first ten of ``deep``.
    """
    merged = np.full_like(deep, -1)
    for place, (first, rest) in enumerate(zip(page, deep, strict=True)):
        rows = [row for row in dict.fromkeys([*first.tolist(), *rest.tolist()]) if row >= 0][: deep.shape[1]]
        merged[place, : len(rows)] = rows
    return merged


def _calculate(
    measures: Mapping[object, str], judged: Judged, judgements: Judgements, rows: Iterable[Iterable[int]]
) -> dict[str, Values]:
    qrels = {str(query): {str(row): grade for row, grade in scores.items()} for query, scores in enumerate(judgements)}
    # trec_eval orders by score and breaks ties by id: scores made from ranks keep the order that the system gave.
    own = [judged.own.get(name, -1) for name in judged.ids]
    run = {
        str(query): {str(row): float(-rank) for rank, row in enumerate(ranking) if row >= 0 and row != own[query]}
        for query, ranking in enumerate(rows)
    }
    values = {name: np.zeros(len(qrels)) for name in measures.values()}
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[metric.measure]][int(metric.query_id)] = metric.value
    return values
