"""Oracle: numpy's full product and sort."""

import numpy as np
import pytest

from offline.ranking import exact_top_k, recall, recall_with_ties


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


def test_recall_counts_wherever_a_row_stands():
    assert recall(np.array([[3, 2, 1], [9, 8, 7]]), np.array([[1, 2], [7, 0]])) == pytest.approx(0.75)


def test_an_equal_document_is_as_good_as_the_one_exact_search_took():
    exact = np.array([[0.9, 0.5], [0.8, 0.7]], np.float32)
    found = np.array([[0.9, 0.5 - 1e-7], [0.8, -np.inf]], np.float32)
    assert recall_with_ties(found, exact) == pytest.approx(0.75)
