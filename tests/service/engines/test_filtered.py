"""Filters over 100,000 rows: recall against exact search, whatever share is selected and wherever the selected rows lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import faiss
import numpy as np
import pytest

from service.engines.base import Rows, Vectors
from service.engines.costs import Costs, Curve
from service.engines.faiss import FaissEngine
from snapshot.manifest import Effort, FlatIndex, HnswIndex, Index, IvfPqIndex
from snapshot.selection import Selection

ROWS, DIM, CENTRES, QUERIES, K = 100_000, 24, 400, 30, 10
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
KINDS = ("flat", "hnsw", "ivfpq")
NLIST = 300


@cache
def clustered() -> tuple[Vectors, Vectors, Rows, Rows]:
    """Documents, queries, and the cluster of each."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(CENTRES, DIM))
    clusters = random.integers(CENTRES, size=ROWS + QUERIES)
    vectors = (centres[clusters] + 0.7 * random.normal(size=(ROWS + QUERIES, DIM))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:ROWS], vectors[ROWS:], clusters[:ROWS], clusters[ROWS:]


@cache
def similarities() -> Vectors:
    """The oracle's: float32[queries, rows]."""
    documents, queries, _, _ = clustered()
    return queries @ documents.T


def best(number: int, mask: np.ndarray) -> set[int]:
    scores = np.where(mask, similarities()[number], -np.inf)
    return {int(row) for row in np.argpartition(-scores, K)[:K] if mask[row]}


def recall(number: int, mask: np.ndarray, found: Rows) -> float:
    wanted = best(number, mask)
    assert set(found[found >= 0].tolist()) <= set(np.flatnonzero(mask).tolist())
    assert (found >= 0).sum() == len(wanted)
    return len(wanted.intersection(found.tolist())) / len(wanted) if wanted else 1.0


def index_of(kind: str) -> tuple[faiss.Index, tuple[int, ...]]:
    """A trained, empty index, and the efforts to try; parameters that build it in seconds."""
    if kind == "flat":
        return faiss.IndexFlatIP(DIM), (0,)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        return graph, (16, 32, 64, 128, 256)
    base = faiss.IndexIVFPQ(faiss.IndexFlatIP(DIM), DIM, NLIST, DIM // 2, 8, faiss.METRIC_INNER_PRODUCT)
    base.cp.niter = base.pq.cp.niter = 8
    refined = faiss.IndexRefineFlat(base)
    refined.train(clustered()[0][::4])
    return refined, (1, 2, 4, 8, 16, 32, 64, NLIST)


def described(kind: str, efforts: tuple[Effort, ...]) -> Index:
    """As a snapshot has it: the default is the least effort that finds 98% without a filter."""
    chosen = next(row.effort for row in efforts if row.recall_at_10 >= 0.98)
    common: dict[str, Any] = {"reason": "test", "default_effort": chosen, "efforts": efforts}
    if kind == "hnsw":
        return HnswIndex(m=16, ef_construction=80, **common)
    return IvfPqIndex(nlist=NLIST, pq_bytes=DIM // 2, refine_factor=8, **common) if kind == "ivfpq" else FlatIndex(**common)


@cache
def opened(kind: str) -> tuple[FaissEngine, int]:
    """The engine, and its default effort."""
    documents, queries, _, _ = clustered()
    faiss.omp_set_num_threads(1)  # a graph that several threads build is another one each time
    index, efforts = index_of(kind)
    index.add(documents)
    table = tuple(Effort(effort=effort, recall_at_10=1.0, p50_ms=0, p99_ms=0) for effort in efforts)
    trial = FaissEngine(index, described(kind, table))
    everything = np.ones(ROWS, dtype=np.bool_)
    measured = []
    for row in table:
        rows = trial.search(queries, K, row.effort).rows
        found = np.mean([recall(number, everything, rows[number]) for number in range(QUERIES)])
        measured.append(row.model_copy(update={"recall_at_10": float(found)}))
    final = described(kind, tuple(measured))
    return FaissEngine(index, final), final.default_effort


def by_chance(share: float) -> list[np.ndarray]:
    return [np.random.default_rng(5).random(ROWS) < share] * QUERIES


def away_from_the_query(share: float) -> list[np.ndarray]:
    """By chance, but none of the 1,000 rows nearest to the query."""
    masks = [mask.copy() for mask in by_chance(share)]
    for number, mask in enumerate(masks):
        mask[np.argpartition(-similarities()[number], 1000)[:1000]] = False
    return masks


def by_cluster(share: float) -> list[np.ndarray]:
    """Whole clusters, by chance; never the query's own."""
    _, _, clusters, own = clustered()
    kept = np.random.default_rng(6).random(CENTRES) < share
    return [kept[clusters] & (clusters != query) for query in own]


def but_the_own_cluster() -> list[np.ndarray]:
    _, _, clusters, own = clustered()
    return [clusters != query for query in own]


def the_far_half() -> list[np.ndarray]:
    return [scores < np.median(scores) for scores in similarities()]


def recalls(kind: str, masks: list[np.ndarray]) -> list[float]:
    engine, effort = opened(kind)
    queries = clustered()[1]
    found = []
    for number, mask in enumerate(masks):
        hits = engine.search(queries[number : number + 1], K, effort, Selection.of_mask(mask))
        found.append(recall(number, mask, hits.rows[0]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("make", [by_chance, away_from_the_query, by_cluster])
def test_recall_holds_at_every_share(kind: str, share: float, make: Callable[[float], list[np.ndarray]]) -> None:
    assert np.mean(recalls(kind, make(share))) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [but_the_own_cluster, the_far_half])
def test_recall_holds_where_a_filter_excludes_what_is_near(kind: str, make: Callable[[], list[np.ndarray]]) -> None:
    assert np.mean(recalls(kind, make())) >= 0.95


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_many_survivors_are_not_all_compared_and_few_are(kind: str) -> None:
    engine, effort = opened(kind)
    queries = clustered()[1]
    compared = {}
    for share in (0.9, 0.001):
        selection = Selection.of_mask(by_chance(share)[0])
        compared[share] = np.mean([engine.search(query[np.newaxis], K, effort, selection).exact for query in queries])
    assert compared[0.9] < 0.3
    assert compared[0.001] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_queries_together_are_answered_as_alone(kind: str) -> None:
    engine, effort = opened(kind)
    queries, selection = clustered()[1], Selection.of_mask(by_chance(0.5)[0])
    together = engine.search(queries, K, effort, selection)
    for number in range(QUERIES):
        alone = engine.search(queries[number : number + 1], K, effort, selection)
        np.testing.assert_array_equal(together.rows[number], alone.rows[0])
        np.testing.assert_array_equal(together.scores[number], alone.scores[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_few_hits_are_the_first_of_ten(kind: str, k: int) -> None:
    engine, effort = opened(kind)
    queries = clustered()[1]
    few, ten = engine.search(queries, k, effort).rows, engine.search(queries, K, effort).rows
    np.testing.assert_array_equal(few, ten[:, :k])


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_one_is_found_as_surely_as_ten_under_a_filter(kind: str) -> None:
    engine, effort = opened(kind)
    queries, mask = clustered()[1], by_chance(0.9)[0]
    hits = [engine.search(query[np.newaxis], 1, effort, Selection.of_mask(mask)) for query in queries]
    first = np.where(mask, similarities(), -np.inf).argmax(axis=1)
    assert np.mean([each.rows[0, 0] == row for each, row in zip(hits, first, strict=True)]) >= 0.95


@pytest.mark.parametrize("k", [1, 3])
def test_few_hits_of_lists_are_the_first_of_ten_where_a_filter_excludes_what_is_near(k: int) -> None:
    documents, queries = clustered()[0][:10_000], clustered()[1]
    index, _ = index_of("ivfpq")
    index.add(documents)
    table = tuple(Effort(effort=effort, recall_at_10=recall, p50_ms=0, p99_ms=0) for effort, recall in ((4, 0.5), (16, 0.99)))
    nothing, dear = Curve((1.0,), (0.0,)), Curve((1.0, 10_000.0), (1.0, 10_000.0))
    engine = FaissEngine(index, described("ivfpq", table), Costs(dear, nothing, nothing))
    for query, scores in zip(queries, queries @ documents.T, strict=True):
        selection = Selection.of_mask(scores < np.median(scores))
        few, ten = (engine.search(query[np.newaxis], hits, 16, selection).rows[0] for hits in (k, K))
        np.testing.assert_array_equal(few, ten[:k])
