from functools import partial

import numpy as np
import pytest
import torch

from offline import vectors as module
from offline.errors import StageError
from offline.vectors import ExactSearch, InvertedSearch, Vectors, open_search, torch_top_k

DIM = 8


def unit(rows: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def whole():
    return unit(300, 1)


@pytest.fixture
def vectors(tmp_path, whole):
    for number, part in enumerate(np.split(whole, [70, 71, 200])):
        np.save(tmp_path / f"{number:05}.npy", part)
    return Vectors(tmp_path)


def test_shards_are_one_table(vectors, whole):
    rows = np.array([299, 0, 70, 71, 70, 199, 200])
    assert np.array_equal(vectors.take(rows), whole[rows])
    assert (len(vectors), vectors.dim) == whole.shape
    starts, blocks = zip(*vectors.blocks(rows=64), strict=True)
    assert starts == (0, 64, 128, 192, 256)
    assert np.array_equal(np.concatenate(blocks), whole)


def test_no_shards_are_refused(tmp_path):
    with pytest.raises(StageError, match="run the stage encode first"):
        Vectors(tmp_path)


@pytest.mark.parametrize("k", [1, 10, 300, 400])
def test_blocks_give_what_comparing_with_all_gives(vectors, whole, k, monkeypatch):
    monkeypatch.setattr(vectors, "blocks", partial(vectors.blocks, rows=64))
    queries = unit(20, 2)
    scores, rows = ExactSearch(vectors, torch.device("cpu"))(queries, k)
    oracle = queries @ whole.T
    assert rows.shape == (20, min(k, 300))
    np.testing.assert_allclose(scores, -np.sort(-oracle, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(oracle, rows, axis=1), scores, atol=1e-6)


def test_torch_finds_the_same(whole, monkeypatch):
    monkeypatch.setattr(module, "_QUERY_ROWS", 7)
    queries = unit(20, 2)
    scores, rows = torch_top_k(queries, whole, 5, torch.device("cpu"))
    oracle = queries @ whole.T
    assert np.array_equal(rows, np.argsort(-oracle, axis=1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-oracle, axis=1)[:, :5], atol=1e-6)


def test_many_documents_are_searched_by_an_inverted_file(tmp_path):
    whole = unit(4000, 3)
    np.save(tmp_path / "00000.npy", whole)
    vectors = Vectors(tmp_path)
    assert isinstance(open_search(vectors, exact_rows=4000, seed=0), ExactSearch)
    search = open_search(vectors, exact_rows=3999, seed=0)
    assert isinstance(search, InvertedSearch)
    queries = unit(50, 4)
    _, rows = search(queries, 10)
    best = np.argsort(-(queries @ whole.T), axis=1)[:, :10]
    assert np.mean([len(set(found) & set(exact)) / 10 for found, exact in zip(rows, best, strict=True)]) > 0.7
