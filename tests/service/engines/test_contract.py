"""Every engine gives what exact search gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import pytest
from fake_engine import NullEngine, NumpyEngine
from make_shards import make_shards
from make_snapshot import make_index
from remote_engines import REMOTE, REMOTE_NAMES, remote_engine

from service.engines.base import NO_ROW, NO_SCORE, Engine, Hits, Vectors
from service.engines.costs import Costs, Curve
from service.engines.faiss import FaissEngine
from service.engines.sharded import ShardedEngine
from snapshot.manifest import Index, IvfPqIndex, ShardedIndex
from snapshot.selection import Selection

ROWS, DIM, K = 600, 16, 10
MOST = 1_000_000
"""An effort that visits everything."""
FILES = TemporaryDirectory(prefix="shards-")
"""Of indexes that several tests ask for; goes with the process."""

FREE, DEAR = Curve((1.0,), (0.0,)), Curve((1.0,), (1.0,))
ALWAYS_EXACT, NEVER_EXACT = Costs(FREE, DEAR, DEAR), Costs(DEAR, FREE, FREE)

MakeEngine = Callable[[Vectors], Engine]


def unit(random: np.random.Generator, count: int, dim: int = DIM) -> Vectors:
    vectors = random.normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best(documents: Vectors, queries: Vectors, k: int, mask: np.ndarray | None = None) -> tuple[Vectors, np.ndarray]:
    """The oracle, in double precision and one query at a time."""
    scores = np.full((len(queries), k), NO_SCORE)
    rows = np.full((len(queries), k), NO_ROW)
    eligible = np.arange(len(documents)) if mask is None else np.flatnonzero(mask)
    for number, query in enumerate(queries):
        similar = documents[eligible].astype(np.float64) @ query.astype(np.float64)
        order = np.argsort(-similar)[:k]
        scores[number, : len(order)], rows[number, : len(order)] = similar[order], eligible[order]
    return scores, rows


def agrees(hits: Hits, scores: Vectors, rows: np.ndarray) -> None:
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, scores, atol=1e-5)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@cache
def built(kind: str, documents: bytes, dim: int) -> tuple[Any, Index]:
    """Many tests ask for the same index; training and linking one takes longer than searching it."""
    return make_index(np.frombuffer(documents, np.float32).reshape(-1, dim), kind)


@cache
def built_in_files(documents: bytes, dim: int) -> tuple[Path, ShardedIndex]:
    folder = Path(mkdtemp(dir=FILES.name)) / "index"
    return folder, make_shards(np.frombuffer(documents, np.float32).reshape(-1, dim), folder, refine_factor=ROWS)


@pytest.fixture(
    params=["fake", "flat", "hnsw", "ivfpq", "sharded", "hnsw-approximate", "ivfpq-approximate", "sharded-approximate", *REMOTE]
)
def make_engine(request) -> MakeEngine:
    """Those called approximate are so even where few rows are selected, as long as they find enough."""
    if request.param == "fake":
        return NumpyEngine
    if request.param in REMOTE_NAMES:
        return partial(remote_engine, request.param)
    kind, _, approximate = request.param.partition("-")
    if kind == "sharded":
        return lambda documents: in_files(documents, NEVER_EXACT if approximate else ALWAYS_EXACT)

    def make(documents: Vectors) -> Engine:
        index, described = built(kind, documents.tobytes(), documents.shape[1])
        if isinstance(described, IvfPqIndex):  # refining every row, so that full effort has no loss left
            described = described.model_copy(update={"refine_factor": ROWS})
        return FaissEngine(index, described, NEVER_EXACT if approximate else ALWAYS_EXACT)

    return make


def in_files(documents: Vectors, costs: Costs) -> Engine:
    folder, described = built_in_files(documents.tobytes(), documents.shape[1])
    return ShardedEngine.open(sorted(folder.glob("part-*")), described, documents.shape[1], threads=2, costs=costs)


@pytest.mark.parametrize("queries", [1, 25])
def test_full_effort_is_exact_search(make_engine, random, queries):
    documents, asked = unit(random, ROWS), unit(random, queries)
    engine = make_engine(documents)
    assert (engine.count, engine.dim) == (ROWS, DIM)
    agrees(engine.search(asked, K, MOST), *best(documents, asked, K))
    agrees(engine.exact(asked, K), *best(documents, asked, K))


@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_scaled_queries_scale_scores_and_keep_rows(make_engine, random, scale):
    documents, asked = unit(random, ROWS), unit(random, 5)
    hits = make_engine(documents).search(asked * np.float32(scale), K, MOST)
    scores, rows = best(documents, asked, K)
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, scores * scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("survivors", [0, 1, 3, 12, 60, 300, 599, 600])
@pytest.mark.parametrize("effort", [1, 64, MOST])
def test_a_filter_gives_k_hits_whenever_k_match(make_engine, random, survivors, effort):
    documents, asked = unit(random, ROWS), unit(random, 8)
    mask = np.zeros(ROWS, dtype=np.bool_)
    mask[random.choice(ROWS, survivors, replace=False)] = True
    hits = make_engine(documents).search(asked, K, effort, Selection.of_mask(mask))
    found = hits.rows != NO_ROW
    np.testing.assert_array_equal(found.sum(axis=1), min(K, survivors))
    assert mask[hits.rows[found]].all()
    assert np.isneginf(hits.scores[~found]).all()
    if effort == MOST:
        agrees(hits, *best(documents, asked, K, mask))


@pytest.mark.parametrize("survivors", [0, 1, 12, 300, 600])
def test_exact_search_obeys_a_filter(make_engine, random, survivors):
    documents, asked = unit(random, ROWS), unit(random, 25)
    mask = np.arange(ROWS) < survivors
    agrees(make_engine(documents).exact(asked, K, Selection.of_mask(mask)), *best(documents, asked, K, mask))


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_where_exact_search_is_cheaper_a_filter_gets_it_at_any_effort(kind, random):
    documents, asked = unit(random, ROWS), unit(random, 25)
    mask = np.arange(ROWS) % 3 == 0
    hits = FaissEngine(*make_index(documents, kind), ALWAYS_EXACT).search(asked, K, 1, Selection.of_mask(mask))
    assert hits.exact
    agrees(hits, *best(documents, asked, K, mask))


@pytest.mark.parametrize("effort", [1, MOST])
def test_more_than_there_is_gives_what_there_is(make_engine, random, effort):
    documents, asked = unit(random, 20), unit(random, 3)
    agrees(make_engine(documents).search(asked, 50, effort), *best(documents, asked, 50))


@pytest.mark.parametrize("kind", ["fake", "flat", "hnsw", "sharded", *REMOTE])
def test_one_row(kind, random):
    documents, asked = unit(random, 1), unit(random, 2)
    if kind in REMOTE_NAMES:
        engine = remote_engine(kind, documents)
    elif kind == "sharded":
        engine = in_files(documents, ALWAYS_EXACT)
    else:
        engine = NumpyEngine(documents) if kind == "fake" else FaissEngine(*make_index(documents, kind))
    agrees(engine.search(asked, 3, 64), *best(documents, asked, 3))
    agrees(engine.search(asked, 3, 64, Selection.none(1)), np.full((2, 3), NO_SCORE), np.full((2, 3), NO_ROW))


def test_no_queries(make_engine, random):
    hits = make_engine(unit(random, 20)).search(np.empty((0, DIM), np.float32), K, 64)
    assert hits.rows.shape == hits.scores.shape == (0, K)


@pytest.mark.parametrize("effort", [1, 64])
def test_low_effort_never_gives_fewer_hits(make_engine, random, effort):
    hits = make_engine(unit(random, ROWS)).search(unit(random, 20), 200, effort)
    assert (hits.rows != NO_ROW).all()
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 200 for row in hits.rows.tolist())


def test_recall_grows_with_effort(random):
    documents, asked = unit(random, 4000, 32), unit(random, 50, 32)
    _, rows = best(documents, asked, K)
    for kind in ("hnsw", "ivfpq"):
        engine = FaissEngine(*make_index(documents, kind))
        found = [engine.search(asked, K, effort).rows for effort in (1, 16, 256)]
        recall = [np.mean([len(set(a) & set(b)) / K for a, b in zip(got, rows, strict=True)]) for got in found]
        assert recall[0] < recall[1] < recall[2], kind
        assert recall[2] >= 0.95, kind


def test_a_view_of_other_strides_and_width_of_number_is_understood(make_engine, random):
    documents, asked = unit(random, ROWS), unit(random, 12)
    hits = make_engine(documents).search(asked[::2].astype(np.float64), K, MOST)
    agrees(Hits(hits.scores.astype(np.float32), hits.rows), *best(documents, asked[::2], K))


def test_the_null_engine_finds_nothing():
    hits = NullEngine().search(np.zeros((2, 1), np.float32), 3, 0)
    assert (hits.rows == NO_ROW).all()
    assert np.isneginf(hits.scores).all()
