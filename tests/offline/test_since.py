"""An incremental walk over a tiny one: oracles are the parent's own shards, sentence-transformers, and a walk from scratch."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from forked import exit_codes
from sentence_transformers import SentenceTransformer
from tiny_models import make_tiny_bert
from tiny_walk import DEATHS, ROWS, TEXTS, die, make_base, make_corpus, write_data
from tiny_work import assemble

from offline.encoded import load_vectors
from offline.errors import DataError, ParentError
from offline.index import DESCRIPTION, INDEX
from offline.parent import Parent, find_parent
from offline.since import read_changes
from offline.walk import SINCE
from snapshot.documents import open_documents
from snapshot.errors import HashMismatchError, MissingFileError, SpaceMismatchError
from snapshot.layout import Layout
from snapshot.text import render
from snapshot.verify import verify


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def own(base, tmp_path):
    """A copy that a test may spoil."""
    return base.copy(tmp_path / "base")


def edited():
    """One document of every kind of change, the new ones in between."""
    corpus = make_corpus()
    corpus["d7"] = (f"{TEXTS[7]} rewritten", 7)
    corpus["d9"] = (corpus["d9"][0], 999)
    corpus["renamed"] = corpus.pop("d11")
    del corpus["d20"], corpus["d21"]
    return {"new-1": (TEXTS[100], 100), **corpus, "new-2": (TEXTS[101], 101)}


def run(walk, until="since/publish"):
    names = list(SINCE)
    for name in names[: names.index(until) + 1]:
        walk.run(name)
    return Layout(walk.source.registry / walk.published(until)) if until == "since/publish" else None


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """The incremental snapshot of ``edited``."""
    root = tmp_path_factory.mktemp("made")
    here = base.copy(root / "base")
    return here, run(here.walk(write_data(root / "edited", edited())))


def vectors_by_id(layout):
    parent = Parent(layout)
    return dict(zip(parent.ids, parent.vectors(np.arange(parent.manifest.documents.count)), strict=True))


def test_it_is_a_whole_snapshot_with_its_parent_named(made, tmp_path):
    here, layout = made
    manifest = verify(layout.root)
    parent = verify(here.parent.root)
    assert manifest.parent == parent.id != manifest.id
    assert manifest.space == parent.space
    assert manifest.documents.count == len(edited())
    assert layout.model.read_bytes() == here.parent.model.read_bytes()
    assert here.registry.current() == manifest.id
    assert verify(Path(shutil.copytree(layout.root, tmp_path / manifest.id))) == manifest, "it stands without its parent"


def test_what_became_of_the_documents_is_told_and_travels_along(made):
    here, layout = made
    told = read_changes(here.work)
    assert (told.new, told.changed, told.unchanged, told.dropped, told.encoded) == (3, 1, ROWS - 4, 3, 3)
    assert json.loads((layout.report / "changes.json").read_text())["encoded"] == 3
    assert (layout.report / "report.md").read_text() == "as it was"


def test_vectors_that_stay_are_carried_over_byte_for_byte(base, made):
    before = dict(zip(make_corpus(), load_vectors(base.work / "encode"), strict=True))
    after = vectors_by_id(made[1])
    stay = [key for key, (text, _) in edited().items() if make_corpus().get(key, ("",))[0] == text]
    assert len(stay) == ROWS - 4
    assert all(after[key].tobytes() == before[key].tobytes() for key in stay)
    assert after["renamed"].tobytes() == before["d11"].tobytes()


def test_new_and_changed_vectors_are_those_of_the_document_tower(base, made):
    spec = base.recipe.text.document
    tower = SentenceTransformer(str(base.tower), device="cpu")
    for key in ("new-1", "d7", "new-2"):
        text, _ = edited()[key]
        expected = tower.encode([render(spec, {"title": text.split()[0], "text": text})])[0]
        assert np.allclose(vectors_by_id(made[1])[key], expected, atol=1e-5)


def test_documents_are_the_new_ones_in_the_new_order(made):
    documents = open_documents(made[1].documents)
    assert documents.ids(range(documents.count)) == list(edited())
    fields = dict(zip(edited(), documents.fields(range(documents.count), ["text", "number"]), strict=True))
    assert fields == {key: {"text": text, "number": number} for key, (text, number) in edited().items()}
    assert fields["d9"]["number"] == 999, "new metadata, although the text is the same"


def test_the_golden_set_asks_the_same_and_finds_the_new_best(base, made):
    _, layout = made
    assert json.loads(layout.golden_queries.read_text()) == json.loads(base.parent.golden_queries.read_text())
    queries = np.load(layout.golden_vectors)
    assert np.array_equal(queries, np.load(base.parent.golden_vectors))
    scores = queries @ np.stack(list(vectors_by_id(layout).values())).T
    found = np.take_along_axis(scores, np.load(layout.golden_rows), axis=1)
    assert np.allclose(found, -np.sort(-scores, axis=1)[:, :5], atol=1e-6)


def test_a_chain_of_increments_ends_where_a_walk_from_scratch_does(made, tmp_path):
    here, first = made
    here = here.copy(tmp_path / "base")
    shutil.copytree(first.root, here.registry.root / first.root.name, dirs_exist_ok=True)
    corpus = dict(list(edited().items())[5:])
    second = run(here.walk(write_data(tmp_path / "second", corpus), parent=here.registry.root / first.root.name))
    assert verify(second.root).parent == first.root.name
    scratch = here.walk(tmp_path / "second", parent=second.root)
    for name in ("prepare", "encode"):
        scratch.run(name)
    assert np.allclose(load_vectors(here.work / "encode"), np.stack(list(vectors_by_id(second).values())), atol=1e-5)
    assert list(vectors_by_id(second)) == list(corpus)


@pytest.mark.parametrize(("kind", "rows"), [("flat", ROWS), ("hnsw", ROWS), ("ivfpq", 300)])
def test_every_kind_of_index_is_gone_on_from(kind, rows, tmp_path):
    here = make_base(tmp_path, rows, index={"kind": kind, "recall_target": 0.5})
    before = Parent(here.parent).vectors(np.arange(rows))
    corpus = make_corpus(rows) | {"more": (TEXTS[350], 1)}
    after = Parent(run(here.walk(write_data(tmp_path / "grown", corpus))))
    assert after.vectors(np.arange(rows)).tobytes() == before.tobytes()
    described = after.manifest.index
    assert described.kind == kind
    assert ("appended to that of" in described.reason) == (kind != "flat"), described.reason


def test_changed_rows_are_not_appended_to_a_graph(made):
    assert "built anew: rows of the parent's changed" in verify(made[1].root).index.reason


def test_an_appended_index_that_finds_too_little_is_built_anew(own, tmp_path, monkeypatch):
    walk = own.walk(write_data(tmp_path / "grown", make_corpus(ROWS + 5)))
    run(walk, "since/encode")
    monkeypatch.setattr("offline.append.keeps_recall", lambda *_: False)
    walk.run("since/index")
    folder = own.work / "since" / "index"
    assert "built anew: appending to the parent's leaves recall@10" in json.loads((folder / DESCRIPTION).read_text())["reason"]
    assert {path.name for path in folder.glob("*.faiss")} == {INDEX}


def test_judgements_of_dropped_documents_are_left_out_and_told(own, tmp_path, capsys):
    data = write_data(tmp_path / "judged", make_corpus())
    corpus = (data / "corpus.jsonl").read_text().splitlines()[1:]
    (data / "corpus.jsonl").write_text("".join(f"{line}\n" for line in corpus))
    layout = run(own.walk(data))
    assert verify(layout.root).documents.count == ROWS - 1
    said = capsys.readouterr().err
    assert "test.tsv:2: document 'd0' is not" in said
    assert "1 of 15 judgements are like it and left out" in said
    run(own.walk(data, parent=layout.root), "since/encode")
    assert read_changes(own.work).is_same, "nor are they a fault the day after"


def test_a_second_run_keeps_everything(own, tmp_path):
    walk = own.walk(write_data(tmp_path / "edited", edited()))
    run(walk)
    assert all(walk.run(name).reused for name in SINCE)


def test_nothing_changed_is_known_down_to_the_fields(own, tmp_path):
    walk = own.walk()
    run(walk, "since/encode")
    assert read_changes(own.work).is_same
    corpus = make_corpus()
    corpus["d5"] = (corpus["d5"][0], -5)
    run(own.walk(write_data(tmp_path / "fields", corpus)), "since/encode")
    told = read_changes(own.work)
    assert not told.is_same
    assert (told.changed, told.encoded) == (0, 0)


def test_a_parent_without_hashes_is_encoded_once_more_and_says_so(own, tmp_path, capsys):
    without_hashes(own.parent)
    layout = run(own.walk(write_data(tmp_path / "edited", edited())))
    assert read_changes(own.work).encoded == len(edited())
    assert "keeps no hashes of its texts" in capsys.readouterr().err
    assert layout.text_hashes.is_file()


def without_hashes(layout):
    layout.text_hashes.unlink()
    manifest = json.loads(layout.manifest.read_text())
    del manifest["files"]["documents/text_sha256.npy"]
    layout.manifest.write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.parametrize("when", DEATHS)
def test_a_walk_killed_at_any_step_goes_on_to_the_same_end(when, own, tmp_path):
    corpus = make_corpus(ROWS + 15)
    data, before = write_data(tmp_path / "grown", corpus), own.parent.root
    assert exit_codes(die, (own.root, data, when)) == [-signal.SIGKILL]
    assert own.registry.current() in own.registry.ids()
    assert verify(own.registry.layout(own.registry.current()).root)
    encoded = {path: path.stat().st_mtime_ns for path in (own.work / "since" / "encode" / "fresh").glob("*.npy")}
    assert len(encoded) == (2 if when == "a shard is encoded" else 3)
    layout = run(own.walk(data, parent=before))
    assert {path: path.stat().st_mtime_ns for path in encoded} == encoded, "what was encoded is not encoded again"
    assert verify(layout.root).parent == before.name
    assert own.registry.ids() == sorted({before.name, layout.root.name})
    assert own.registry.current() == layout.root.name
    assert open_documents(layout.documents).ids(range(ROWS + 15)) == list(corpus)
    assert Parent(layout).vectors(np.arange(ROWS)).tobytes() == Parent(Layout(before)).vectors(np.arange(ROWS)).tobytes()
    assert "appended to that of" in verify(layout.root).index.reason


def refused(here, error, match, walk):
    """The walk is refused by name, and the registry is as it was."""
    before = here.registry.ids(), here.registry.current()
    with pytest.raises(error, match=match):
        run(walk)
    assert (here.registry.ids(), here.registry.current()) == before


def test_a_damaged_parent_is_refused(own):
    content = bytearray(own.parent.index.read_bytes())
    content[-1] ^= 1
    own.parent.index.write_bytes(content)
    refused(own, HashMismatchError, r"index\.faiss: sha256", own.walk())


def test_a_parent_that_lacks_a_file_is_refused(own):
    own.parent.golden_vectors.unlink()
    refused(own, MissingFileError, "vectors.npy: missing", own.walk())


def test_another_document_tower_of_the_same_width_is_refused(own, tmp_path):
    shutil.rmtree(own.tower)
    assemble(make_tiny_bert(tmp_path / "other", seed=1), "mean").save_pretrained(str(own.tower))
    refused(own, SpaceMismatchError, r"document_tower: it spans the document space .* --document-tower DIR", own.walk())


def test_a_document_tower_that_changes_between_two_runs_is_refused(own, tmp_path):
    walk = own.walk(write_data(tmp_path / "edited", edited()))
    run(walk, "since/prepare")
    shutil.rmtree(own.tower)
    assemble(make_tiny_bert(tmp_path / "other", seed=1), "mean").save_pretrained(str(own.tower))
    refused(own, SpaceMismatchError, "it spans the document space", walk)


def test_a_missing_document_tower_names_the_option(own):
    shutil.rmtree(own.tower)
    refused(own, ParentError, "no document tower there.*--document-tower DIR", own.walk())


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ({"document": {"template": "{text}", "max_tokens": 64}}, "text.document.template"),
        ({"document": {"template": "{title}. {text}", "max_tokens": 32}}, "text.document.max_tokens"),
        ({"query": {"max_tokens": 16, "lowercase": True}}, "text.query.lowercase"),
    ],
)
def test_a_recipe_that_renders_in_another_way_is_refused_by_its_key(text, key, own):
    recipe = own.with_recipe(text=text)
    refused(own, ParentError, f"{key} is .* in the recipe and", own.walk(recipe=recipe))


def test_an_empty_corpus_is_refused(own, tmp_path):
    data = write_data(tmp_path / "empty", {}, judged=0)
    shutil.rmtree(data / "qrels")
    refused(own, DataError, "holds no document", own.walk(data))


def test_a_corpus_that_has_nothing_of_the_parents_is_refused(own, tmp_path):
    corpus = {f"other-{row}": (TEXTS[row], row) for row in range(ROWS)}
    data = write_data(tmp_path / "other", corpus)
    refused(own, ParentError, f"none of the {ROWS} documents of .* --data", own.walk(data))


def test_an_id_given_twice_is_refused_with_its_line(own, tmp_path):
    data = write_data(tmp_path / "twice", make_corpus())
    with (data / "corpus.jsonl").open("a") as handle:
        handle.write('{"_id": "d3", "title": "again", "text": "again"}\n')
    refused(own, DataError, f"corpus.jsonl:{ROWS + 1}: _id 'd3' is also that of line 4", own.walk(data))


def test_the_parent_is_found_by_id_by_folder_and_as_what_is_desired(base, tmp_path):
    folder, registry = base.parent.root, base.registry.root
    for name in (folder.name, str(folder), "CURRENT"):
        assert find_parent(name, registry, "--since") == folder.resolve()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("20200101T000000Z-00000000", "neither a folder nor a snapshot in .*; there are: 20"),
        ("../../etc", "no manifest.json there"),
        ("not an id", "neither a folder nor a snapshot"),
    ],
)
def test_a_parent_that_is_not_there_names_those_that_are(name, match, base):
    with pytest.raises(ParentError, match=f"--since {name}: {match}"):
        find_parent(name, base.registry.root, "--since")


def test_without_a_first_snapshot_the_remedy_is_named(tmp_path):
    with pytest.raises(ParentError, match=r"nothing is activated in .*; name a snapshot, or make one without --since"):
        find_parent("CURRENT", tmp_path / "registry", "--since")
    with pytest.raises(ParentError, match="holds none; make a first one without --since"):
        find_parent("20200101T000000Z-00000000", tmp_path / "registry", "--since")
