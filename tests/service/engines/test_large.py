"""100,000 rows in every engine: recall at the recorded effort, whatever share is selected and wherever the selected rows lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from make_shards import make_shards
from make_snapshot import make_index
from remote_engines import LARGE, REMOTE

from service.engines.base import Engine, Rows, Vectors
from service.engines.faiss import FaissEngine
from service.engines.sharded import ShardedEngine
from snapshot.documents import Documents, document_field
from snapshot.filters import parse_filter

ROWS, DIM, CENTRES, QUERIES, K = 100_000, 24, 400, 30, 10
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001)
LEAST_RECALL = 0.95

EFFORTS = {"hnsw": (16, 32, 64, 128, 256, 512), "ivfpq": (4, 8, 16, 32, 64, 128), "sharded": (4, 8, 16, 32, 64, 128)}
EFFORTS["pgvector"] = (100, 200, 400, 800)

pytestmark = pytest.mark.skipif(LARGE not in os.environ, reason="make scale runs it: it takes minutes")


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
def table() -> pa.Table:
    """A column that says nothing of the vectors, and the cluster."""
    fields = [document_field(name, "integer", filterable=True) for name in ("chance", "cluster")]
    columns = {
        "id": [f"док-{row}" for row in range(ROWS)],
        "chance": np.random.default_rng(4).permutation(ROWS),
        "cluster": clustered()[2],
    }
    return pa.table(columns, schema=pa.schema([pa.field("id", pa.string()), *fields]))


def in_process(kind: str, folder: Path) -> Engine:
    """Built of the vectors as they are."""
    documents, _, _, _ = clustered()
    if kind == "pgvector":
        from pgvector_engine import PgvectorEngine

        return PgvectorEngine.fill(documents)
    if kind == "sharded":
        described = make_shards(documents, folder / "index", part_rows=30_000)
        return ShardedEngine.open(sorted((folder / "index").glob("part-*")), described, DIM, threads=2)
    return FaissEngine(*make_index(documents, kind))


@pytest.fixture(scope="module", params=["hnsw", "ivfpq", "sharded", *REMOTE])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, int]]:
    """An engine, and the effort that its table recommends."""
    documents, queries, _, _ = clustered()
    if request.param in EFFORTS:
        engine = in_process(request.param, tmp_path_factory.mktemp(request.param))
        yield engine, least_effort(engine, EFFORTS[request.param])
        return
    from milvus_servers import measured, uri_of

    from service.engines.milvus import MilvusEngine
    from service.engines.remote import MilvusServer

    uri = uri_of(request.param)
    index = measured(uri, documents, table(), queries)
    engine = MilvusEngine.open(index, Documents(table()).columns, DIM, MilvusServer(uri))
    yield engine, index.default_effort
    engine.close()


def least_effort(engine: Engine, efforts: tuple[int, ...]) -> int:
    """The effort that a table of it would recommend: the least that finds 0.98 without a filter."""
    documents, queries, _, _ = clustered()
    floor = -np.sort(-(queries @ documents.T), axis=1)[:, K - 1 : K] - 1e-5
    return next((each for each in efforts if (engine.search(queries, K, each).scores >= floor).mean() >= 0.98), efforts[-1])


def test_recall_is_kept_at_every_share(opened: tuple[Engine, int], request: pytest.FixtureRequest) -> None:
    engine, effort = opened
    documents, queries, _, own = clustered()
    stored, exact = Documents(table()), queries @ documents.T
    assert engine.count == ROWS
    for share in SHARES:
        for elsewhere in (False, True):
            found = 0
            for number in range(QUERIES):
                raw: dict[str, object] = {"chance": {"$lt": int(share * ROWS)}}
                if elsewhere:  # the query's own neighbourhood is what the filter leaves out
                    raw["cluster"] = {"$ne": int(own[number])}
                selection = stored.select(parse_filter(raw, stored.columns))
                rows = selection.rows()
                best = rows[np.argsort(-exact[number, rows])[:K]]
                hits = engine.search(queries[number : number + 1], K, effort, selection)
                found += len(np.intersect1d(hits.rows[0], best)) + K - len(best)
                assert (hits.rows[0] >= 0).sum() == min(K, len(rows))
            recall = found / (QUERIES * K)
            where, kind = "elsewhere" if elsewhere else "anywhere", request.node.callspec.params["opened"]
            print(f"{kind}, share {share:g} {where}: recall@10 {recall:.3f} at effort {effort}")
            assert recall >= LEAST_RECALL, (share, elsewhere)
