"""Oracle: numpy's full product."""

import faiss
import numpy as np
import pytest

from offline.config import IndexConfig
from offline.efforts import default_effort, measure, open_index, search
from offline.index import build, sizes_of
from offline.ranking import exact_top_k
from snapshot.manifest import Effort


def clustered(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    vectors = centres[rng.integers(0, 20, rows)] + 0.5 * rng.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def built(kind, vectors, tmp_path):
    index = build(kind, sizes_of(kind, IndexConfig(), *vectors.shape), vectors)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    return open_index(tmp_path / "index.faiss")


@pytest.mark.parametrize(("kind", "effort"), [("flat", 0), ("hnsw", 512), ("ivfpq", 64)])
def test_the_most_effort_finds_what_numpy_finds(kind, effort, tmp_path):
    vectors = clustered(1500, 16)
    queries = clustered(40, 16, seed=1)
    scores, rows = search(built(kind, vectors, tmp_path), kind, effort, queries, 10)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(rows, best, strict=True)])
    assert found == 1.0 if kind == "flat" else found > 0.97
    assert np.allclose(scores, np.einsum("qkd,qd->qk", vectors[rows], queries), atol=1e-5)


@pytest.mark.parametrize(("kind", "efforts"), [("hnsw", (1, 16, 256)), ("ivfpq", (1, 4, 38))])
def test_more_effort_finds_more(kind, efforts, tmp_path):
    vectors, queries = clustered(1500, 16), clustered(50, 16, seed=1)
    exact, _ = exact_top_k(queries, vectors, 10)
    table = measure(built(kind, vectors, tmp_path), kind, efforts, queries, exact)
    assert [row.effort for row in table] == list(efforts)
    recalls = [row.recall_at_10 for row in table]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]
    assert all(0 < row.p50_ms <= row.p99_ms for row in table)


def test_recall_is_that_of_all_queries_however_few_are_timed(tmp_path, monkeypatch):
    vectors, queries = clustered(1500, 16), clustered(50, 16, seed=1)
    scores, rows = exact_top_k(queries, vectors, 10)
    index = built("hnsw", vectors, tmp_path)
    found = search(index, "hnsw", 1, queries, 10)[1]
    monkeypatch.setattr("offline.efforts._TIMED", 7)
    table = measure(index, "hnsw", (1,), queries, scores, rows)
    assert table[0].recall_at_10 == pytest.approx(
        np.mean([len({*ours} & {*best}) / 10 for ours, best in zip(found, rows, strict=True)]), abs=1e-3
    )
    assert 0 < table[0].p50_ms <= table[0].p99_ms < 1e3


def test_flat_finds_all_even_among_equal_documents(tmp_path):
    vectors = np.repeat(clustered(30, 8), 20, axis=0)
    queries = clustered(20, 8, seed=1)
    exact, _ = exact_top_k(queries, vectors, 10)
    assert measure(built("flat", vectors, tmp_path), "flat", (0,), queries, exact)[0].recall_at_10 == 1.0


def efforts(*recalls):
    return [Effort(effort=2**i, recall_at_10=recall, p50_ms=0, p99_ms=0) for i, recall in enumerate(recalls)]


@pytest.mark.parametrize(
    ("recalls", "chosen", "said"),
    [
        ((0.5, 0.98, 1.0), 2, "the least effort"),
        ((0.99, 1.0), 1, "the least effort"),
        ((0.5, 0.9, 0.9), 2, "no effort reaches"),
    ],
)
def test_default_effort_is_the_cheapest_that_reaches_the_target(recalls, chosen, said):
    effort, why = default_effort(efforts(*recalls), 0.98)
    assert effort == chosen
    assert said in why
