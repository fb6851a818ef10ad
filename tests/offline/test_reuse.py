"""A new student over a tiny snapshot; oracles: inodes, torch and numpy."""

import json
import os

import numpy as np
import onnx
import pytest
from tiny_models import make_tiny_bert
from tiny_walk import ROWS, TEXTS, finish, make_base, make_corpus, write_data
from tiny_work import assemble

from offline import towers
from offline.data.prepared import Prepared
from offline.errors import ParentError
from offline.parent import Parent
from offline.walk import REUSE, SINCE
from snapshot.errors import HashMismatchError, SpaceMismatchError
from snapshot.layout import Layout
from snapshot.text import render_query
from snapshot.verify import verify

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def distil_again(here, seed=7):
    """Another student in the folder of the stage distill, with a receipt."""
    folder = here.work / "distill"
    student = assemble(make_tiny_bert(folder / f"backbone-{seed}", layers=1, seed=seed), "mean")
    towers.save_tower(student, folder / "student", here.recipe.text.query)
    finish(folder)


def run(here, **options):
    walk = here.walk(**options)
    for name in REUSE:
        walk.run(name)
    (sealed,) = (path.parent for path in (here.work / "pack").glob("*/manifest.json"))
    return Layout(sealed)


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """The walk on a registry of the same file system, whose latest snapshot has other documents than the work folder."""
    root = tmp_path_factory.mktemp("made")
    here = base.copy(root / "base")
    corpus = {"new": (TEXTS[200], 1), **make_corpus()}
    del corpus["d2"]
    since = here.walk(write_data(root / "later", corpus))
    for name in SINCE:
        since.run(name)
    parent = here.registry.layout(since.published("since/publish"))
    distil_again(here)
    return here, parent, run(here, parent=parent.root)


def test_index_and_documents_are_the_same_files(made):
    here, parent, layout = made
    verify(layout.root)
    same = [parent.index, *sorted(parent.documents.iterdir())]
    assert len(same) == 3
    for path in same:
        assert (layout.root / path.relative_to(parent.root)).stat().st_ino == path.stat().st_ino
    here.walk().run("publish")
    published = here.registry.layout(layout.root.name)
    assert published.index.stat().st_ino == parent.index.stat().st_ino
    assert here.registry.current() == layout.root.name


def test_the_manifest_names_parent_space_and_a_new_tower(made):
    _, parent, layout = made
    before, after = verify(parent.root), verify(layout.root)
    assert after.parent == before.id
    assert after.space == before.space
    assert after.documents == before.documents
    assert after.document_text == before.document_text
    assert layout.model.read_bytes() != parent.model.read_bytes()


def test_the_effort_table_is_measured_with_the_new_student(made):
    _, parent, layout = made
    before, after = verify(parent.root).index, verify(layout.root).index
    assert after.reason.startswith(f"hnsw: that of {parent.root.name}, for the same documents")
    assert [row.effort for row in after.efforts] == [row.effort for row in before.efforts]
    assert [row.p50_ms for row in after.efforts] != [row.p50_ms for row in before.efforts]


def test_the_golden_set_is_the_new_students_over_the_parents_rows(made):
    here, parent, layout = made
    spec, queries = here.recipe.text.query, json.loads(layout.golden_queries.read_text())
    student = towers.load_tower(here.work / "distill" / "student")
    vectors = np.load(layout.golden_vectors)
    assert np.allclose(vectors, towers.encode(student, spec, [render_query(spec, query) for query in queries]), atol=1e-6)
    assert not np.allclose(vectors, np.load(parent.golden_vectors), atol=1e-2)
    scores = vectors @ Parent(parent).vectors(np.arange(ROWS)).T
    found = np.take_along_axis(scores, np.load(layout.golden_rows), axis=1)
    assert np.allclose(found, -np.sort(-scores, axis=1)[:, :5], atol=1e-6)


def test_the_report_is_of_the_new_student_on_the_parents_documents(made):
    _, _, layout = made
    report = json.loads((layout.report / "report.json").read_text())
    assert report["documents"] == ROWS
    systems = [system["name"] for system in report["proof"]["systems"]]
    assert systems == ["teacher", "student", "student-fp32", "served"], "no student changes a baseline"
    assert report["proof"]["queries"] == 14, "15 test queries, one asks for the document that was dropped"
    assert verify(layout.root).retention.model_dump() == report["retention"]
    assert "# tiny" in (layout.report / "report.md").read_text()


def test_the_report_reads_whole_texts(made):
    """Slices count in how many documents a word stands; the documents that the data lacks count as they are stored."""
    here, parent, _ = made
    texts = Prepared(here.work / "reuse" / "prepare").tower_texts.to_pylist()
    ids = Parent(parent).ids
    corpus = {"new": (TEXTS[200], 1), **make_corpus()}
    assert [row["text"] for row in texts] == [corpus[key][0] for key in ids]
    assert [row["title"] for row in texts] == [corpus[key][0].split()[0] for key in ids]


def test_training_pairs_name_the_parents_rows(made):
    here, parent, _ = made
    ids, pairs = Parent(parent).ids, Prepared(here.work / "reuse" / "prepare").pairs.to_pylist()
    before = Prepared(here.work / "prepare")
    known = before.documents.column("id").to_pylist()
    expected = [(pair["query"], known[pair["row"]]) for pair in before.pairs.to_pylist()]
    assert [(pair["query"], ids[pair["row"]]) for pair in pairs] == [each for each in expected if each[1] in set(ids)]
    assert [pair["row"] for pair in pairs] != [pair["row"] for pair in before.pairs.to_pylist()]


def test_a_second_run_keeps_everything(made):
    here, parent, _ = made
    walk = here.walk(parent=parent.root)
    assert all(walk.run(name).reused for name in REUSE)


def test_a_killed_run_starts_each_stage_over_and_ends_the_same(base, tmp_path):
    """What a kill leaves: files of a stage without its receipt, links among them."""
    here = base.copy(tmp_path / "base")
    first = run(here)
    for name in ("reuse/prepare", "reuse/encode", "reuse/index", "pack"):
        (here.work / name / "receipt.json").unlink()
        before = here.parent.index.read_bytes()
        second = run(here)
        assert verify(second.root).files["index/index.faiss"] == verify(here.parent.root).files["index/index.faiss"]
        assert here.parent.index.read_bytes() == before
    assert verify(here.parent.root)
    assert len(list((here.work / "pack").glob("*/manifest.json"))) == 1
    assert first.root.parent == second.root.parent


def test_training_again_makes_another_space_which_is_refused(base, tmp_path):
    here = base.copy(tmp_path / "base")
    towers.save_tower(assemble(make_tiny_bert(tmp_path / "other", seed=1), "mean"), here.tower, here.recipe.text.document)
    finish(here.work / "train")
    with pytest.raises(SpaceMismatchError, match="it spans the document space"):
        run(here)
    assert here.registry.ids() == base.registry.ids()


def test_a_graph_of_another_space_is_refused(base, tmp_path):
    here = base.copy(tmp_path / "base")
    walk = here.walk()
    for name in list(REUSE)[:-1]:
        walk.run(name)
    model = here.work / "reuse" / "export" / "model.onnx"
    graph = onnx.load(str(model))
    onnx.helper.set_model_props(graph, {"scalingnote.space": "0" * 64})
    onnx.save(graph, str(model))
    with pytest.raises(SpaceMismatchError, match="exported for the document space 0000"):
        walk.run("reuse/pack")


def test_a_damaged_parent_is_refused(base, tmp_path):
    here = base.copy(tmp_path / "base")
    here.parent.index.write_bytes(here.parent.index.read_bytes()[:-1] + b"?")
    with pytest.raises(HashMismatchError):
        run(here)


def test_another_text_spec_is_refused_by_its_key(base, tmp_path):
    here = base.copy(tmp_path / "base")
    recipe = here.with_recipe(text={"document": {"template": "{text}", "max_tokens": 64}})
    walk = here.walk(recipe=recipe)
    with pytest.raises(ParentError, match=r"text\.document\.template"):
        walk.run("reuse/prepare")


@pytest.mark.skipif(not hasattr(os, "link"), reason="needs hard links")
def test_without_hard_links_files_are_copied(base, tmp_path, monkeypatch):
    here = base.copy(tmp_path / "base")

    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    layout = run(here)
    assert verify(layout.root).files["index/index.faiss"] == verify(here.parent.root).files["index/index.faiss"]
