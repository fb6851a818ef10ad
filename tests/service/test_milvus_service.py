"""The whole service over a snapshot in Milvus: searches, filters, swaps to FAISS and back, and what callers see when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from make_snapshot import make_oracle, make_snapshot
from milvus_servers import free_port, make_milvus_snapshot, shared_lite
from serving import Client, assert_problem, client_of
from typer.testing import CliRunner

from service.__main__ import app
from service.engines import MilvusServer
from service.generation import Beside, GenerationOptions, open_generation
from snapshot.manifest import collection_name
from snapshot.registry import Registry

ROWS = 200
QUERY = "apple bread"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A snapshot in Milvus, which is active, and one of other documents in FAISS."""
    folder = tmp_path_factory.mktemp("registry")
    layout = make_milvus_snapshot(folder, shared_lite().uri, ROWS)
    make_snapshot(folder, ROWS, kind="hnsw", seed=1)
    registry = Registry(folder)
    registry.activate(layout.root.name, "for a test", who="tests")
    return registry


@pytest.fixture
def client(registry: Registry) -> Iterator[Client]:
    with client_of(registry.root, milvus_uri=shared_lite().uri, default_timeout_ms=10_000) as client:
        yield client


def ids(rows: np.ndarray) -> list[str]:
    return [f"doc-{row}" for row in rows]


def test_a_search_is_answered_from_the_collection(client: Client) -> None:
    body = client.post("/search", {"query": QUERY, "k": 5, "exact": True}).json()
    assert [hit["id"] for hit in body["hits"]] == ids(make_oracle(ROWS).rows([QUERY], 5)[0])
    assert body["degraded"] is None
    assert body["hits"][0]["fields"]["number"] == int(body["hits"][0]["id"].removeprefix("doc-"))


def test_a_filter_selects_there_what_it_selects_here(client: Client) -> None:
    oracle = make_oracle(ROWS)
    raw = {"number": {"$lt": 60}, "price": {"$exists": True}, "kind": {"$ne": "no such kind"}}
    hits = client.post("/search", {"query": QUERY, "k": 7, "filter": raw}).json()["hits"]
    eligible = np.array([row for row in range(60) if row % 7])
    scores = (oracle.encode([QUERY]) @ oracle.documents[eligible].T)[0]
    assert [hit["id"] for hit in hits] == ids(eligible[np.argsort(-scores)[:7]])


def test_what_milvus_cannot_compare_is_422_with_its_path(client: Client) -> None:
    raw = {"number": {"$lt": 60}, "kind": {"$ne": "a\0b"}}
    body = assert_problem(client.post("/search", {"query": QUERY, "filter": raw}), 422, "request_invalid")
    assert body["errors"][0]["path"] == "filter.kind"


def test_it_swaps_to_faiss_and_back(client: Client, registry: Registry) -> None:
    options = GenerationOptions(milvus=MilvusServer(shared_lite().uri))
    kinds = {registry.read(each).index.kind: each for each in registry.ids()}
    milvus, faiss = kinds["milvus"], kinds["hnsw"]
    for wanted in (faiss, milvus):
        new = open_generation(registry.layout(wanted), options, lambda _: None, Beside(client.parts.generations.current))
        client.parts.generations.replace(new)
        body = client.post("/search", {"query": QUERY, "k": 5, "exact": True}).json()
        assert body["snapshot"] == wanted
        oracle = make_oracle(ROWS, seed=int(wanted == faiss))
        assert [hit["id"] for hit in body["hits"]] == ids(oracle.rows([QUERY], 5)[0])


@pytest.mark.parametrize(("uri", "says"), [(None, "--milvus-uri or SCALINGNOTE_MILVUS_URI"), ("closed", "is it running")])
def test_without_its_server_a_snapshot_is_refused_and_says_why(registry: Registry, uri: str | None, says: str) -> None:
    where = None if uri is None else f"http://127.0.0.1:{free_port()}"
    with client_of(registry.root, milvus_uri=where) as client:
        body = assert_problem(client.get("/readyz"), 503, "no_snapshot")
        assert body["detail"].startswith("engine_unavailable")
        assert says in body["detail"]


def test_a_server_that_fails_later_is_503_at_once(client: Client) -> None:
    generation = client.parts.generations.current
    assert generation is not None
    generation.engine._wire.close()  # type: ignore[attr-defined]
    for _ in range(5):
        body = assert_problem(client.post("/search", {"query": QUERY}), 503, "engine_fault")
    assert "engine_unavailable" in body["detail"]
    assert "is not asked for now" in body["detail"]
    assert list(generation.costs.export()) == []  # no answer came, so nothing was learned of what one costs


def test_collections_of_removed_snapshots_are_dropped_and_no_others(registry: Registry, tmp_path: Path) -> None:
    uri = shared_lite().uri
    mine = Registry(tmp_path)
    old = make_milvus_snapshot(tmp_path, uri, 40, seed=5).root.name
    new = make_milvus_snapshot(tmp_path, uri, 40, seed=6).root.name
    mine.activate(new, "for a test", who="tests")
    run = CliRunner()
    arguments = ["milvus", "--registry", str(tmp_path), "--milvus-uri", uri]
    assert run.invoke(app, [*arguments, "--drop-removed"]).output == ""  # nothing was removed yet
    mine.gc(keep=0)
    assert mine.ids() == [new]
    assert f"{collection_name(old)}: would be dropped" in run.invoke(app, [*arguments, "--drop-removed", "--dry-run"]).output
    assert f"{collection_name(old)}: dropped, {old} was removed" in run.invoke(app, [*arguments, "--drop-removed"]).output
    listed = run.invoke(app, arguments).output
    assert f"{collection_name(new)}\tpublished" in listed
    assert collection_name(old) not in listed
    desired = registry.current()
    assert desired is not None
    assert f"{collection_name(desired)}\tno snapshot of this registry" in listed
