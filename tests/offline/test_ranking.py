"""Oracle: numpy's full product and sort."""

import numpy as np
import pytest

from offline.ranking import exact_top_k, recall, recall_with_ties, scores_of, ties_as_found


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


class InBlocks:
    def __init__(self, vectors):
        self.vectors = vectors

    def blocks(self):
        for start in range(0, len(self.vectors), 7):
            yield start, self.vectors[start : start + 7]


@pytest.mark.parametrize("kind", [np.asarray, InBlocks])
def test_scores_of_rows_are_those_of_exact_search(kind):
    rng = np.random.default_rng(0)
    asked, documents = unit(rng, 5, 16), unit(rng, 40, 16)
    scores, rows = exact_top_k(asked, documents, 10)
    rows[2, 3] = -1
    found = scores_of(asked, kind(documents), rows)
    assert found[2, 3] == -np.inf
    scores[2, 3] = -np.inf
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_of_equally_good_rows_those_are_taken_that_were_found_and_better_ones_are_not_given_up():
    scores = np.array([[0.9, 0.8, 0.5, 0.5], [0.9, 0.8, 0.7, 0.6]], np.float32)
    rows = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    found = np.array([[7, 2, 6, -1], [1, 2, 9, 3]])
    as_found = np.array([[0.5, 0.8, 0.5 - 1e-7, -np.inf], [0.9, 0.8, 0.55, 0.7]], np.float32)
    assert ties_as_found((scores, rows), (as_found, found)).tolist() == [[1, 2, 7, 6], [1, 2, 3, 4]]


def test_rows_that_were_not_found_stay_where_nothing_as_good_was():
    exact = np.array([[0.5, 0.5, 0.5]], np.float32), np.array([[3, 4, 5]])
    assert ties_as_found(exact, (np.array([[0.5, 0.4]], np.float32), np.array([[9, 8]]))).tolist() == [[9, 3, 4]]
