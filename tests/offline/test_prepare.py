import json
from pathlib import Path

import pytest

from offline.config import DataConfig
from offline.data import pydocs
from offline.data.prepared import PAIRS, QRELS, QUERIES, TEXTS, TOWER_TEXTS, Prepared
from offline.errors import DataError
from offline.prepare import STAGE, data_digest
from offline.recipe import Recipe
from offline.stages import Source, run_stage
from snapshot.documents import columns_of, open_documents, write_documents


@pytest.fixture
def prepare(tmp_path):
    """Run the stage; ``prepare(Source(...), key=value of DataConfig) -> Outcome``."""

    def run(source, /, **config):
        return run_stage(STAGE, tmp_path / "work", Recipe(name="trial", data=DataConfig(**config)), source)

    return run


def test_writes_every_table(prepare, beir_folder):
    outcome = prepare(Source(data=beir_folder()))
    prepared = Prepared(outcome.folder)
    assert prepared.pairs.schema == PAIRS
    assert prepared.queries.schema == QUERIES
    assert prepared.qrels.schema == QRELS
    assert prepared.texts.schema == TEXTS
    assert prepared.tower_texts.schema == TOWER_TEXTS
    assert prepared.documents.num_rows == prepared.tower_texts.num_rows == 40
    assert outcome.summary["documents"] == 40
    assert outcome.summary["pairs"] == prepared.pairs.num_rows == 56
    assert [outcome.summary[f"queries_{split}"] for split in ("train", "dev", "test")] == [56, 12, 12]


def test_the_summary_counts_texts_by_source(prepare, beir_folder, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("something else entirely\nfix a flat tyre\n")
    outcome = prepare(Source(data=beir_folder(), query_log=log))
    sources = Prepared(outcome.folder).texts.column("source").to_pylist()
    counted = {name: sources.count(name) for name in ("train", "log", "title", "sentence")}
    assert counted == {name: outcome.summary[f"texts_{name}"] for name in counted}
    assert (counted["train"], counted["log"], counted["title"]) == (56, 1, 40)
    assert counted["sentence"] > 40


def test_no_held_out_query_is_learnt_from(prepare, beir_folder, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("DINNER in  zero gravity?\nlaunch a rocket\n")
    prepared = Prepared(prepare(Source(data=beir_folder(), query_log=log)).folder)
    held_out = {query["text"].casefold() for query in prepared.queries.to_pylist() if query["split"] != "train"}
    texts = prepared.texts.column("text").to_pylist()
    assert "dinner in zero gravity" in held_out
    assert "launch a rocket" in texts
    assert not held_out & {text.casefold().rstrip("?") for text in texts}


def test_documents_fit_a_snapshot_and_long_text_is_cut(prepare, beir_folder, tmp_path):
    prepared = Prepared(prepare(Source(data=beir_folder()), stored_characters=20).folder)
    assert write_documents(prepared.documents, tmp_path / "documents") == columns_of(prepared.documents.schema)
    fields = open_documents(tmp_path / "documents").fields([3], ["title", "text", "words", "long"])
    assert fields == [{"title": "Honey bees", "text": "Workers collect nect", "words": None, "long": True}]
    assert len(prepared.tower_texts.column("text")[3].as_py()) > 60


def test_a_second_run_is_not_needed_until_the_data_changes(prepare, beir_folder, tmp_path):
    folder = beir_folder()
    source = Source(data=folder, query_log=tmp_path / "log.txt")
    source.query_log.write_text("a query\n")
    assert not prepare(source).reused
    assert prepare(source).reused
    with (folder / "corpus.jsonl").open("a") as handle:
        handle.write(json.dumps({"_id": "d40", "title": "New", "text": "Newer"}) + "\n")
    assert prepare(source).summary["documents"] == 41
    source.query_log.write_text("another query\n")
    assert not prepare(source).reused


def test_says_that_there_is_nothing_to_train_on(prepare, tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "no title"}\n')
    assert prepare(Source(data=tmp_path)).summary["pairs"] == 0
    assert "warning: no training pairs" in capsys.readouterr().err


def test_the_embedded_corpus_needs_no_folder(prepare, monkeypatch):
    monkeypatch.setattr(pydocs, "read_sources", lambda stdlib: [])  # what is compiled is enough here, and quick
    outcome = prepare(Source(), source="pydocs")
    assert outcome.summary["documents"] > 1000
    documents = Prepared(outcome.folder).documents
    assert [column.name for column in columns_of(documents.schema)] == ["title", "text", "module", "kind", "since"]


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        (Source(), {}, "name it with --data DIR"),
        (Source(data=Path("somewhere")), {"source": "pydocs"}, "--data somewhere: this recipe reads the standard library"),
        (Source(data=Path("nowhere")), {}, "nowhere: does not exist; a folder in BEIR layout"),
        (Source(query_log=Path("nowhere")), {"source": "pydocs"}, "nowhere: "),
    ],
)
def test_refuses_a_source_that_does_not_fit(prepare, source, config, message):
    with pytest.raises(DataError, match=message):
        prepare(source, **config)


def test_a_fault_leaves_no_half_written_table(prepare, beir_folder, tmp_path):
    folder = beir_folder()
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q39-0\td38\tmuch\n")
    with pytest.raises(DataError, match=r"test\.tsv:14"):
        prepare(Source(data=folder))
    assert not list((tmp_path / "work").rglob("*.arrow"))


def test_data_is_named_by_its_content(beir_folder, tmp_path):
    folder = beir_folder()
    first = data_digest(Source(data=folder))
    assert len(first) == 64
    (folder / "README.md").write_text("not read")
    assert data_digest(Source(data=folder)) == first
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write("\n")
    assert data_digest(Source(data=folder)) != first
    assert not data_digest(Source())
