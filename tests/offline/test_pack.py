"""The whole tail of the walk on tiny towers; oracles: snapshot.verify, torch, numpy."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from make_findings import findings
from tiny_work import make_prepared, make_student, make_towers, trace_student

from offline import card, encode, export, index, pack, towers
from offline.config import EncodeConfig, ExportConfig, IndexConfig, PackConfig
from offline.data.prepared import Prepared
from offline.efforts import open_index, search_as_served
from offline.encoded import load_vectors
from offline.errors import OfflineError
from offline.graph import Graph, cosine_distance
from offline.recipe import Recipe
from offline.stages import Job, Source
from snapshot.documents import open_documents
from snapshot.errors import SnapshotError
from snapshot.layout import Layout
from snapshot.manifest import Retention
from snapshot.text import render, render_query
from snapshot.verify import verify

RECIPE = Recipe(
    name="toy",
    encode=EncodeConfig(shard_rows=40),
    export=ExportConfig(precision="fp32"),
    index=IndexConfig(kind="hnsw", probe_queries=20),
    pack=PackConfig(golden_queries=12, golden_k=5),
)
RETENTION = Retention(split="test", queries=20, teacher=0.5, served=0.45, retained=0.9, low=0.8, high=1.0)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of pack whose inputs are finished."""
    work = tmp_path_factory.mktemp("work")
    inputs = {"prepare": make_prepared(work / "prepare"), "train": make_towers(work / "train")}
    inputs["refine"] = make_student(work / "refine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", lambda _: onnx.load_from_string(trace_student()))
        for name, stage in (("encode", encode), ("export", export), ("index", index)):
            inputs[name] = work / name
            inputs[name].mkdir()
            stage.run(Job(RECIPE, Source(), inputs[name], inputs))
    inputs["evaluate"] = work / "evaluate"
    (inputs["evaluate"] / "plots").mkdir(parents=True)
    (inputs["evaluate"] / "report.json").write_text(json.dumps({"retention": RETENTION.model_dump()}))
    for name in ("report.md", "plots/ndcg.png", "receipt.json", "config.json", "inputs.json"):
        (inputs["evaluate"] / name).write_text("content")
    return Job(RECIPE, Source(), work / "pack", inputs)


@pytest.fixture
def fresh(job, tmp_path):
    return replace(job, folder=tmp_path)


@pytest.fixture(scope="module")
def sealed(job):
    job.folder.mkdir()
    return Layout(job.folder / pack.run(job)["snapshot"])


def test_what_is_sealed_verifies(sealed):
    manifest = verify(sealed.root)
    assert manifest.name == "toy"
    assert manifest.documents.count == 60
    assert [column.name for column in manifest.documents.columns] == ["title"]
    assert manifest.index.kind == "hnsw"
    assert manifest.query_tower.precision == "fp32"
    assert manifest.retention == RETENTION
    assert manifest.parent is None
    assert {"torch", "faiss-cpu", "scalingnote", "python"} <= set(manifest.build)


def test_documents_are_in_the_order_of_the_index(sealed, job):
    documents = open_documents(sealed.documents)
    stored = open_index(sealed.index).reconstruct_n(0, 60)
    assert documents.ids(range(60)) == Prepared(job.inputs["prepare"]).documents.column("id").to_pylist()
    assert np.array_equal(stored, load_vectors(job.inputs["encode"]))


def test_the_golden_set_is_torch_and_brute_force(sealed, job):
    queries = json.loads(sealed.golden_queries.read_text())
    assert len(set(queries)) == 12
    vectors, rows = np.load(sealed.golden_vectors), np.load(sealed.golden_rows)
    spec = RECIPE.text.query
    tower = towers.load_tower(job.inputs["refine"] / "student")
    assert np.allclose(vectors, towers.encode(tower, spec, [render_query(spec, query) for query in queries], 32), atol=1e-6)
    best = np.sort(vectors @ load_vectors(job.inputs["encode"]).T, axis=1)[:, ::-1][:, :5]
    scores = np.einsum("qkd,qd->qk", load_vectors(job.inputs["encode"])[rows], vectors)
    assert rows.dtype == np.int64
    assert np.allclose(scores, best, atol=1e-5)


def test_what_is_served_meets_the_bounds_of_the_golden_set(sealed):
    manifest = verify(sealed.root)
    graph = Graph.open(sealed.model, sealed.tokenizer, manifest.query_tower.text)
    texts = [render_query(manifest.query_tower.text, query) for query in json.loads(sealed.golden_queries.read_text())]
    served = graph.encode(texts)
    assert cosine_distance(served, np.load(sealed.golden_vectors)).max() <= manifest.golden.max_cosine_distance == 1e-4
    rows = search_as_served(open_index(sealed.index), manifest.index, served, manifest.golden.k)
    found = [len(set(ours) & set(best)) / 5 for ours, best in zip(rows, np.load(sealed.golden_rows), strict=True)]
    assert np.mean(found) > manifest.golden.min_recall > 0.5


def test_the_proof_travels_along_without_receipts(sealed):
    files = sorted(path.relative_to(sealed.report).as_posix() for path in sealed.report.rglob("*") if path.is_file())
    assert files == ["export.json", "plots/ndcg.png", "report.json", "report.md"]


def test_nothing_measured_leaves_retention_out(fresh, job, tmp_path):
    evaluate = tmp_path / "evaluate"
    shutil.copytree(job.inputs["evaluate"], evaluate)
    (evaluate / "report.json").write_text('{"retention": null}')
    fresh = replace(fresh, folder=tmp_path / "pack", inputs={**job.inputs, "evaluate": evaluate})
    fresh.folder.mkdir()
    assert verify(fresh.folder / pack.run(fresh)["snapshot"]).retention is None


def test_a_second_run_leaves_one_snapshot(fresh):
    (fresh.folder / "staging" / "report").mkdir(parents=True)
    (fresh.folder / "staging" / "report" / "torn").write_text("by a kill")
    (fresh.folder / "20200101T000000Z-00000000").mkdir()
    snapshot_id = pack.run(fresh)["snapshot"]
    assert [path.name for path in fresh.folder.iterdir()] == [snapshot_id]
    verify(fresh.folder / snapshot_id)


def test_the_hashes_are_of_what_the_document_tower_reads(sealed, job):
    texts = [render(RECIPE.text.document, row) for row in Prepared(job.inputs["prepare"]).tower_texts.to_pylist()]
    found = np.load(sealed.text_hashes, allow_pickle=False)
    assert [bytes(row) for row in found] == [hashlib.sha256(text.encode()).digest() for text in texts]


def test_the_model_card_is_bound_to_the_snapshot(fresh, tmp_path):
    evaluated = tmp_path / "evaluated"
    evaluated.mkdir()
    (evaluated / "report.json").write_text(json.dumps({"retention": RETENTION.model_dump()}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("# data\n\n| licence | CC BY 4.0, the *authors* |\n")
    backbone = str(fresh.inputs["train"] / "backbone")
    recipe = fresh.recipe.model_copy(update={"train": fresh.recipe.train.model_copy(update={"backbone": backbone})})
    here = replace(fresh, recipe=recipe, source=Source(data=tmp_path / "data"), inputs={**fresh.inputs, "evaluate": evaluated})
    (evaluated / card.CARD).write_text(card.write(findings(), here))
    (tmp_path / "pack").mkdir()
    summary = pack.run(replace(here, folder=tmp_path / "pack"))
    sealed = tmp_path / "pack" / summary["snapshot"]
    said = card.read(sealed)
    assert hashlib.sha256((sealed / "manifest.json").read_bytes()).hexdigest() in said.splitlines()[0]
    assert f"`{hashlib.sha256(Layout(sealed).model.read_bytes()).hexdigest()}`" in said
    assert "CC BY 4.0, the \\*authors\\*" in said
    assert "kept 97.0%, 95% paired bootstrap interval 96.1% to 97.9%" in said
    path = Layout(sealed).report / card.CARD
    path.chmod(0o644)
    path.write_text(path.read_text().replace("97.0%", "99.9%"))
    with pytest.raises(SnapshotError, match=r"model_card\.md"):
        card.read(sealed)


def test_a_snapshot_without_a_card_says_so(fresh):
    sealed = fresh.folder / pack.run(fresh)["snapshot"]
    with pytest.raises(OfflineError, match=r"has no report/model_card\.md"):
        card.read(sealed)
