"""Oracle: the formulas, written out by hand; for queries that are documents themselves, BEIR's way and pytrec_eval."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
import pytrec_eval

from offline.judged import Judged
from offline.metrics import METRICS, MRR, NDCG, RECALL_10, RECALL_100, merge_depths, ndcg, score


def judged(*judgements, relevance=1):
    ids = tuple(f"q{i}" for i in range(len(judgements)))
    return Judged("test", ids, ids, judgements, relevance, skipped=0)


def rows(*rankings, k=100):
    return np.array([list(ranking) + [-1] * (k - len(ranking)) for ranking in rankings], np.int64)


def test_binary_judgements():
    found = score(judged({7: 1, 8: 1}), rows([3, 7, 5, *range(100, 108), 8]))
    ideal = 1 + 1 / log2(3)
    assert found[NDCG] == pytest.approx([(1 / log2(3)) / ideal])
    assert found[RECALL_10] == pytest.approx([0.5])
    assert found[RECALL_100] == pytest.approx([1.0])
    assert found[MRR] == pytest.approx([0.5])
    assert tuple(found) == METRICS


def test_grades_gain_two_to_the_score_minus_one():
    found = score(judged({1: 3, 2: 1, 3: 0, 4: 2}, relevance=2), rows([2, 3, 1, 9]))
    gained = 1 + 7 / log2(4)
    ideal = 7 + 3 / log2(3) + 1 / log2(4)
    assert found[NDCG] == pytest.approx([gained / ideal])
    assert found[RECALL_10] == pytest.approx([0.5]), "grade 1 does not count as relevant from 2 on"
    assert found[MRR] == pytest.approx([1 / 3])


def test_order_is_that_of_the_ranking_not_of_the_ids():
    assert score(judged({2: 1}), rows([10, 9, 2]))[MRR] == pytest.approx([1 / 3])


def test_mrr_looks_at_ten_places_only():
    assert score(judged({50: 1}), rows([*range(10), 50]))[MRR] == [0.0]


def test_an_empty_ranking_scores_zero_and_keeps_its_place():
    found = score(judged({1: 1}, {1: 1}, {1: 1}), rows([1], [], [2, 1]))
    assert found[MRR] == pytest.approx([1.0, 0.0, 0.5])
    assert found[NDCG][1] == 0.0


def test_negative_grades_count_as_irrelevant():
    assert ndcg(judged({1: -1, 2: 1}), [[1, 2]]) == pytest.approx([1 / log2(3)])


def test_rankings_of_different_lengths():
    assert ndcg(judged({1: 1}, {1: 1}), [[1], [5, 6, 1]]) == pytest.approx([1.0, 0.5])


def test_a_page_goes_before_what_a_deeper_search_found():
    page, deep = np.array([[5, 6], [7, -1], [1, 2]]), np.array([[6, 8, 9], [7, -1, -1], [1, 2, 3]])
    assert merge_depths(page, deep).tolist() == [[5, 6, 8], [7, -1, -1], [1, 2, 3]]


def as_beir(judgements, ids, retrieved):
    """EvaluateRetrieval.evaluate: hits with the query's id are popped, then pytrec_eval; of 11 and 101 hits, as BEIR asks for."""
    runs = {name: {hit: 1.0 / (1 + rank) for rank, hit in enumerate(hits)} for name, hits in zip(ids, retrieved, strict=True)}
    for name, hits in runs.items():
        hits.pop(name, None)
    qrels = {name: {str(row): grade for row, grade in scores.items()} for name, scores in zip(ids, judgements, strict=True)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100"}).evaluate(runs)
    keys = {NDCG: "ndcg_cut_10", RECALL_10: "recall_10", RECALL_100: "recall_100"}
    return {metric: [found[name][key] for name in ids] for metric, key in keys.items()}


def test_queries_that_are_documents_are_scored_as_beir_does():
    rng = np.random.default_rng(3)
    ids = tuple(map(str, range(0, 120, 2)))
    judgements = [{int(row): 1 for row in rng.choice(np.arange(1, 120, 2), 3, replace=False)} for _ in ids]
    found = np.stack([rng.permutation(120)[:101] for _ in ids])
    found[:30, 0], found[30:40, 10], found[40:45, 100] = range(0, 60, 2), range(60, 80, 2), range(80, 90, 2)
    found = np.stack([[*dict.fromkeys([*row.tolist(), *range(120)])][:101] for row in found])
    plain = Judged("test", ids, ids, tuple(judgements), 1, skipped=0)
    theirs = as_beir(judgements, ids, [[str(row) for row in ranking] for ranking in found])
    ours = score(replace(plain, own={name: int(name) for name in ids}), found)
    for metric, values in theirs.items():
        assert ours[metric] == pytest.approx(values, abs=1e-6)
    assert ours[NDCG].mean() > score(plain, found)[NDCG].mean() + 0.005
    cut = replace(plain, own={name: int(name) for name in ids}).without_own(found, 100)
    assert all(int(name) not in row for name, row in zip(ids, cut, strict=True))
    assert score(plain, cut)[RECALL_100] == pytest.approx(theirs[RECALL_100])
