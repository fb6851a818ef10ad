"""The whole service over a snapshot in Milvus: searches, filters, swaps to FAISS and back, and what callers see when it fails."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from make_snapshot import make_oracle, make_snapshot
from milvus_servers import free_port, make_milvus_snapshot, shared_lite
from object_stores import moto, use
from serving import Client, assert_problem, client_of
from typer.testing import CliRunner, Result

from offline.config_milvus import MilvusConfig
from offline.milvus import connected
from service.__main__ import app
from service.engines import MilvusServer
from service.errors import SettingsError
from service.generation import Beside, GenerationOptions, open_generation
from service.logs import configure
from snapshot.errors import CollectionAlteredError, RegistryError
from snapshot.manifest import collection_name
from snapshot.registry import Registry
from snapshot.remote import push

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
    assert client.get("/info").json()["engine"] == {"state": "closed", "code": None, "reason": None}
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
    assert body["detail"].startswith("engine_unavailable: ")
    engine = client.get("/info").json()["engine"]
    assert engine["state"] in ("open", "half_open")
    assert (engine["code"], shared_lite().uri in engine["reason"]) == ("engine_unavailable", True)
    assert list(generation.costs.export()) == []  # no answer came, so nothing was learned of what one costs


@pytest.mark.usefixtures("restored_logging")
def test_callers_do_not_learn_where_the_server_is_and_the_log_does(client: Client) -> None:
    generation = client.parts.generations.current
    assert generation is not None
    generation.engine._wire.close()  # type: ignore[attr-defined]
    address = shared_lite().uri.removeprefix("http://")
    log = io.StringIO()
    configure("info", "json", log)
    for answer in (client.post("/search", {"query": QUERY}), client.post("/search/batch", [{"query": QUERY}])):
        assert_problem(answer, 503, "engine_fault")
        assert address not in answer.text
        assert collection_name(generation.id) not in answer.text
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [address in line["reason"] for line in lines if line["event"] == "request"] == [True, True]


def test_rows_deleted_while_it_serves_are_found_by_the_proof_and_nothing_is_answered_from_the_rest(tmp_path: Path) -> None:
    layout = make_milvus_snapshot(tmp_path, shared_lite().uri, 50, seed=7)
    Registry(tmp_path).activate(layout.root.name, "for a test", who="tests")
    with client_of(tmp_path, milvus_uri=shared_lite().uri, default_timeout_ms=10_000) as client:
        generation = client.parts.generations.current
        assert generation is not None
        generation.prove()
        with connected(MilvusConfig(uri=shared_lite().uri)) as milvus:
            milvus.delete(collection_name(generation.id), filter="row in [3]")
        with pytest.raises(CollectionAlteredError, match="49 rows, the manifest says 50"):
            generation.prove()
        assert_problem(client.post("/search", {"query": QUERY}), 503, "engine_fault")


@dataclass
class Removed:
    """A registry with one snapshot, and one that ``gc`` has removed, whose collection is still there."""

    root: Path
    snapshot: str
    new: str

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["milvus", "--registry", str(self.root), "--milvus-uri", shared_lite().uri, *arguments])

    @property
    def mine(self) -> Registry:
        return Registry(self.root)

    def listed(self) -> str:
        return self.run().output


@pytest.fixture
def removed(tmp_path: Path) -> Removed:
    root, uri = tmp_path / "mine", shared_lite().uri
    old = make_milvus_snapshot(root, uri, 40, seed=5).root.name
    new = make_milvus_snapshot(root, uri, 40, seed=6).root.name
    mine = Registry(root)
    mine.activate(new, "for a test", who="tests")
    shutil.copytree(root, tmp_path / "other")  # before gc, as a push or a pull would have it
    found = Removed(root, old, new)
    assert found.run("--drop-removed").output == ""  # nothing was removed yet
    mine.gc(keep=0)
    assert mine.ids() == [new]
    return found


def test_collections_of_removed_snapshots_are_dropped_by_name_and_no_others(registry: Registry, removed: Removed) -> None:
    old, name = removed.snapshot, collection_name(removed.snapshot)
    assert removed.run("--drop-removed").output == f"{name}: {old} was removed; --drop {old}\n"
    assert f"{name}: would be dropped" in removed.run("--drop", old, "--dry-run").output
    assert f"{name}\tremoved" in removed.listed()
    assert f"{name}: dropped, {old} was removed" in removed.run("--drop", old, "--drop", old).output
    listed = removed.listed()
    assert f"{collection_name(removed.new)}\tpublished" in listed
    assert name not in listed
    desired = registry.current()
    assert desired is not None
    assert f"{collection_name(desired)}\tno snapshot of this registry" in listed


def test_a_collection_that_another_registry_serves_is_kept(removed: Removed, tmp_path: Path) -> None:
    old, name, other = removed.snapshot, collection_name(removed.snapshot), tmp_path / "other"
    Registry(other).activate(old, "for a test", who="tests")
    for place in (str(other), f"file://{other}"):
        assert f"{name}: kept, {place} has or wants it" in removed.run("--drop-removed", "--also-registry", place).output
        refused = removed.run("--drop", old, "--also-registry", place)
        assert isinstance(refused.exception, SettingsError)
        assert f"--drop {old}: {place} has or wants it; nothing was dropped" in str(refused.exception)
    with client_of(other, milvus_uri=shared_lite().uri, default_timeout_ms=10_000) as serving:
        removed.run("--drop-removed")
        assert serving.post("/search", {"query": QUERY, "k": 5}).json()["snapshot"] == old


def test_the_registry_that_services_follow_is_asked_too(
    removed: Removed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALINGNOTE_REMOTE_REGISTRY", str(tmp_path / "other"))
    assert f"{tmp_path / 'other'} has or wants it" in str(removed.run("--drop", removed.snapshot).exception)


def test_a_registry_in_an_object_store_keeps_its_own_too(
    removed: Removed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, given = removed.snapshot, "--also-registry"
    with moto() as server:
        use(monkeypatch, server)
        push(Registry(tmp_path / "other"), "s3://bucket/has", [old])
        push(removed.mine, "s3://bucket/lacks", [removed.new])
        for place, why in (("has", "s3://bucket/has has or wants it"), ("typo", "no registry, or an empty one")):
            assert why in str(removed.run("--drop", old, given, f"s3://bucket/{place}").exception)
        assert f"{old} was removed" in removed.run("--drop", old, given, "s3://bucket/lacks").output


@pytest.mark.parametrize("place", ["nowhere", ""])
def test_another_registry_that_does_not_say_what_it_has_lets_nothing_be_dropped(
    removed: Removed, place: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = removed.run("--drop", removed.snapshot, "--also-registry", str(empty / place))
    assert isinstance(ended.exception, RegistryError)
    assert "no registry, or an empty one" in str(ended.exception)
    assert f"{collection_name(removed.snapshot)}\tremoved" in removed.listed()


def test_one_that_may_not_be_dropped_keeps_them_all(registry: Registry, removed: Removed) -> None:
    strange = registry.current()
    assert strange is not None
    for wrong, why in (
        (removed.new, "does not say that it was removed"),
        (strange, "it has no collection there, or none of this registry"),
        ("20200101T000000Z-00000000", "it has no collection there, or none of this registry"),
    ):
        ended = removed.run("--drop", removed.snapshot, "--drop", wrong)
        assert isinstance(ended.exception, SettingsError)
        assert why in str(ended.exception)
    with connected(MilvusConfig(uri=shared_lite().uri)) as client:
        client.create_alias(collection_name(removed.snapshot), "readers")
        assert "kept, readers points at it" in removed.run("--drop-removed").output
        assert "readers points at it; move the alias first" in str(removed.run("--drop", removed.snapshot).exception)
        client.drop_alias("readers")
    assert f"{collection_name(removed.snapshot)}\tremoved" in removed.listed()
