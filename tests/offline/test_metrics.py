"""Oracle: the formulas, written out by hand."""

from math import log2

import numpy as np
import pytest

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
