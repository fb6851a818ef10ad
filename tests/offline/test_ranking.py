"""Oracles: numpy's full product and sort; ir-measures."""

import ir_measures
import numpy as np
import pytest

from offline.ranking import exact_top_k, ndcg_at_10, recall


def unit(rng, rows, dim):
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("queries", [1, 7, 64])
def test_exact_top_k_agrees_with_a_full_sort(queries):
    rng = np.random.default_rng(0)
    asked, documents = unit(rng, queries, 16), unit(rng, 500, 16)
    scores, rows = exact_top_k(asked, documents, 10)
    products = asked @ documents.T
    assert np.array_equal(rows, np.argsort(-products, axis=1)[:, :10])
    assert np.allclose(scores, np.take_along_axis(products, rows, axis=1), atol=1e-5)
    assert rows.dtype == np.int64


def test_k_is_cut_to_the_number_of_documents():
    rng = np.random.default_rng(0)
    _, rows = exact_top_k(unit(rng, 3, 8), unit(rng, 4, 8), 10)
    assert rows.shape == (3, 4)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(4), (3, 1)))


def test_ndcg_agrees_with_ir_measures_on_graded_judgements():
    rng = np.random.default_rng(3)
    rows = np.array([rng.permutation(40)[:20] for _ in range(30)])
    judgements = [{int(row): int(rng.integers(0, 4)) for row in rng.permutation(40)[:15]} for _ in range(30)]
    qrels = [ir_measures.Qrel(str(q), str(row), score) for q, judged in enumerate(judgements) for row, score in judged.items()]
    run = [ir_measures.ScoredDoc(str(q), str(row), -place) for q, found in enumerate(rows) for place, row in enumerate(found)]
    expected = {metric.query_id: metric.value for metric in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
    assert np.allclose(ndcg_at_10(rows, judgements), [expected[str(q)] for q in range(30)])


def test_ndcg_without_anything_relevant_is_zero():
    assert ndcg_at_10(np.array([[0, 1], [-1, -1]]), [{5: 0}, {}]).tolist() == [0.0, 0.0]


def test_recall_counts_wherever_a_row_stands():
    assert recall(np.array([[3, 2, 1], [9, 8, 7]]), np.array([[1, 2], [7, 0]])) == pytest.approx(0.75)
