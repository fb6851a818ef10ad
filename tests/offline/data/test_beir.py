import gzip
import json

import pytest

from offline.config import DataConfig
from offline.data import beir
from offline.errors import DataError
from snapshot.documents import columns_of

HEADER = "query-id\tcorpus-id\tscore\n"


def load(folder, **config):
    return beir.load(folder, DataConfig(**config))


@pytest.mark.parametrize("compress", [False, True])
def test_reads_documents_queries_and_judgements(beir_folder, compress):
    dataset = load(beir_folder(compress=compress))
    assert dataset.documents.num_rows == 40
    assert dataset.documents.column("id").to_pylist()[:2] == ["d0", "d1"]
    assert dataset.titles[0] == "Bicycle repair"
    assert {column.name: column.type for column in columns_of(dataset.documents.schema)} == {
        "title": "string",
        "text": "string",
        "words": "integer",
        "first_letter": "string",
        "long": "boolean",
    }
    assert dataset.documents.column("words").to_pylist()[2:4] == [len(dataset.texts[2].split()), None]
    splits = [query.split for query in dataset.queries]
    assert [splits.count(split) for split in ("train", "dev", "test")] == [56, 12, 12]
    assert all(f"d{entry.row}" == f"d{entry.query_id[1:].split('-')[0]}" for entry in dataset.judgements)


def test_pairs_come_from_the_train_split(beir_folder):
    dataset = load(beir_folder())
    assert len(dataset.pairs) == 56
    assert max(pair.row for pair in dataset.pairs) == 27
    assert dataset.pairs[0].query == "fix a flat tyre"
    assert dataset.pairs[0].text == dataset.texts[0]


def test_pairs_come_from_titles_without_a_train_split(beir_folder):
    dataset = load(beir_folder(splits=("test",)))
    assert len(dataset.pairs) == 40
    assert (dataset.pairs[2].query, dataset.pairs[2].title, dataset.pairs[2].row) == ("Volcanoes", "", 2)


def test_pairs_come_from_sentences_without_a_train_split_and_titles(tmp_path, capsys):
    texts = [
        "Who was Ada Lovelace? She wrote the first program.",
        "What is a loom?",
        "Why do looms need cards? They hold the pattern.",
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)))
    pairs = load(tmp_path).pairs
    assert [(pair.query, pair.text, pair.row) for pair in pairs] == [
        ("Who was Ada Lovelace?", "She wrote the first program.", 0),
        ("Why do looms need cards?", "They hold the pattern.", 2),
    ]
    assert "neither a train split nor titles: 2 training pairs are first sentences" in capsys.readouterr().err


def test_a_corpus_alone_is_enough(beir_folder):
    folder = beir_folder(splits=())
    (folder / "queries.jsonl").unlink()
    dataset = load(folder)
    assert (dataset.documents.num_rows, len(dataset.pairs), dataset.queries) == (40, 40, [])


def test_queries_that_nobody_judged_are_unlabelled(beir_folder):
    folder = beir_folder()
    with (folder / "queries.jsonl").open("a") as handle:
        handle.write('{"_id": "new", "text": "how do planes fly"}\n')
    assert load(folder).unlabelled == ["how do planes fly"]


def test_the_first_documents_can_be_had_for_a_trial(beir_folder):
    dataset = load(beir_folder(), max_documents=30)
    assert dataset.documents.num_rows == len(dataset.titles) == 30
    assert {query.split for query in dataset.queries} == {"train", "dev"}
    assert max(entry.row for entry in dataset.judgements) == 29


def test_a_query_may_be_judged_in_two_splits(beir_folder):
    folder = beir_folder()
    with (folder / "qrels" / "dev.tsv").open("a") as handle:
        handle.write("q39-0\td39\t1\n")
    asked = [query.split for query in load(folder).queries if query.id == "q39-0"]
    assert asked == ["dev", "test"]


def test_graded_scores_below_the_bar_make_no_pair(beir_folder):
    folder = beir_folder(splits=("train",))
    (folder / "qrels" / "train.tsv").write_text(HEADER + "q0-0\td0\t2\nq0-0\td1\t1\nq0-0\td2\t0\nq0-0\td0\t2\n")
    dataset = load(folder, relevance=2)
    assert [pair.row for pair in dataset.pairs] == [0]
    assert [(entry.row, entry.score) for entry in dataset.judgements] == [(0, 2), (1, 1), (2, 0)]


def test_warns_of_documents_shared_with_train(beir_folder, capsys):
    folder = beir_folder()
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q39-0\td0\t1\n")
    load(folder)
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: 1 of the 7 relevant documents of test are also relevant to train queries")


def test_is_silent_where_nothing_is_shared(beir_folder, capsys):
    load(beir_folder())
    assert capsys.readouterr().err == ""


def test_warns_of_train_queries_that_are_held_out(beir_folder, capsys):
    folder = beir_folder()
    lines = (folder / "queries.jsonl").read_text().splitlines()
    lines[0] = json.dumps({"_id": "q0-0", "text": "Make something  to clean HANDS?"})
    (folder / "queries.jsonl").write_text("\n".join(lines))
    dataset = load(folder)
    assert len(dataset.pairs) == 55
    assert "1 train queries are also dev or test queries" in capsys.readouterr().err


def test_warns_of_splits_that_are_named_otherwise(beir_folder, capsys):
    folder = beir_folder()
    (folder / "qrels" / "validation.tsv").write_text(HEADER)
    load(folder)
    assert "not read: validation.tsv; splits are named" in capsys.readouterr().err


def replace(name, line, content):
    """Put ``content`` in place of a line (from 1) of a file of the folder."""

    def damage(folder):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        lines[line - 1] = content.encode() + b"\n"
        (folder / name).write_bytes(b"".join(lines))

    return damage


def write(name, content):
    def damage(folder):
        (folder / name).write_text(content)

    return damage


CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
FAULTS = [
    (replace(CORPUS, 3, "{broken"), r"corpus\.jsonl:3: not JSON"),
    (replace(CORPUS, 3, '"text"'), r"corpus\.jsonl:3: a JSON str, not an object"),
    (replace(CORPUS, 3, '{"text": "x"}'), r"corpus\.jsonl:3: no '_id' \(got None\)"),
    (replace(CORPUS, 3, '{"_id": " ", "text": "x"}'), r"corpus\.jsonl:3: no '_id' \(got ' '\)"),
    (replace(CORPUS, 3, '{"_id": true, "text": "x"}'), r"corpus\.jsonl:3: no '_id' \(got True\)"),
    (replace(CORPUS, 3, '{"_id": "d0", "text": "x"}'), r"corpus\.jsonl:3: _id 'd0' is also that of line 1"),
    (replace(CORPUS, 3, '{"_id": "d2", "text": ["x"]}'), r"corpus\.jsonl:3: 'text' is a list; it must be a string"),
    (replace(CORPUS, 3, '{"_id": "d2", "text": "x", "metadata": ["a"]}'), r"corpus\.jsonl:3: metadata is a list"),
    (write(CORPUS, "\n"), r"corpus\.jsonl: holds no document"),
    (replace(QUERIES, 2, '{"_id": "q0-0", "text": "x"}'), r"queries\.jsonl:2: _id 'q0-0' is also that of line 1"),
    (replace(QRELS, 1, "q34-0\td34\t1"), r"test\.tsv:1: the header is .*must be query-id, corpus-id, score, separated by tabs"),
    (replace(QRELS, 1, "query-id,corpus-id,score"), r"test\.tsv:1: the header is"),
    (replace(QRELS, 2, "q34-0\td34"), r"test\.tsv:2: 2 columns; there must be 3"),
    (replace(QRELS, 2, "q34-0 d34 1"), r"test\.tsv:2: 1 columns"),
    (replace(QRELS, 2, "q34-0\td34\t0.5"), r"test\.tsv:2: score '0\.5'; it must be a whole number"),
    (replace(QRELS, 2, "q34-0\td34\t21"), r"test\.tsv:2: score '21'; it must be a whole number of at most 20"),
    (replace(QRELS, 2, f"q34-0\td34\t{2**31}"), r"test\.tsv:2: score"),
    (replace(QRELS, 2, "q34-1\td34\t2"), r"test\.tsv:3: judges 'q34-1' and 'd34' a second time, with another score"),
    (write(QRELS, HEADER), r"test\.tsv: judges nothing"),
    (write(QRELS, ""), r"test\.tsv: judges nothing"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_refuses_bad_data_by_place_and_remedy(beir_folder, damage, message):
    folder = beir_folder()
    damage(folder)
    with pytest.raises(DataError, match=message):
        load(folder)


def empty(folder, rows):
    for row in rows:
        replace(CORPUS, row + 1, json.dumps({"_id": f"d{row}", "title": "", "text": " "}))(folder)


def test_a_few_faulty_lines_are_left_out_with_one_warning_a_file(beir_folder, capsys):
    folder = beir_folder()
    empty(folder, (2, 4))
    replace(QRELS, 2, "q34-0\tzzz\t1")(folder)
    replace(QRELS, 4, "zzz\td35\t1")(folder)
    dataset = load(folder)
    ids = dataset.documents["id"].to_pylist()
    assert ids == ["d0", "d1", "d3", *(f"d{row}" for row in range(5, 40))]
    assert all(dataset.titles[row] == dataset.documents["title"][row].as_py() for row in range(38))
    assert all(ids[entry.row] == f"d{entry.query_id[1:].split('-')[0]}" for entry in dataset.judgements)
    assert len(dataset.judgements) == 80 - 4 - 2
    assert [line.split("/")[-1] for line in capsys.readouterr().err.splitlines()] == [
        "corpus.jsonl:3: document 'd2' has neither title nor text; 2 of 40 documents are like it and left out",
        "train.tsv:6: document 'd2' is left out; 4 of 56 judgements are like it and left out",
        "test.tsv:2: document 'zzz' is not in corpus.jsonl; 2 of 12 judgements are like it and left out",
    ]


@pytest.mark.parametrize("line", ['{"_id": "q34-0", "text": "  "}', '{"_id": "q34-0"}'])
def test_a_query_without_text_is_left_out_with_its_judgements(beir_folder, capsys, line):
    folder = beir_folder()
    replace(QUERIES, 69, line)(folder)
    dataset = load(folder)
    assert ("q34-0" not in {query.id for query in dataset.queries}, len(dataset.judgements)) == (True, 79)
    assert [line.split("/")[-1] for line in capsys.readouterr().err.splitlines()] == [
        "queries.jsonl:69: query 'q34-0' has no text; 1 of 80 queries are like it and left out",
        "test.tsv:2: query 'q34-0' is left out; 1 of 12 judgements are like it and left out",
    ]


def test_a_held_out_query_whose_judgements_are_left_out_is_not_learnt_from(beir_folder):
    folder = beir_folder()
    replace(QRELS, 2, "q34-0\tzzz\t1")(folder)
    dataset = load(folder)
    assert "q34-0" not in {query.id for query in dataset.queries}
    assert dataset.unlabelled == []


def missing(folder, count, query="q34-0"):
    with (folder / QRELS).open("a") as handle:
        handle.writelines(f"{query}\tnone{number}\t1\n" for number in range(count))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: empty(folder, range(3, 9)),
            r"corpus\.jsonl:4: document 'd3' has neither title nor text\. 6 of 40 documents",
        ),
        (lambda folder: missing(folder, 6), r"test\.tsv:14: document 'none0' is not in corpus\.jsonl\. 6 of 18 judgements"),
        (lambda folder: missing(folder, 6, "zzz"), r"test\.tsv:14: query 'zzz' is not in queries\.jsonl\. 6 of 18 judgements"),
        (write(QRELS, HEADER + "q34-0\tzzz\t1\n"), r"test\.tsv:2: document 'zzz' is not in corpus\.jsonl\. 1 of 1 judgements"),
        (
            write(QUERIES, "".join(f'{{"_id": "{number}", "text": ""}}\n' for number in range(6))),
            r"queries\.jsonl:1: query '0' has no text\. 6 of 6 queries",
        ),
        (write(CORPUS, '{"_id": "d0"}\n'), r"corpus\.jsonl:1: document 'd0' has neither title nor text\. 1 of 1 documents"),
    ],
)
def test_many_faulty_lines_are_refused_by_the_first_unless_all_may_go(beir_folder, damage, message):
    folder = beir_folder()
    damage(folder)
    with pytest.raises(DataError, match=message + r" are like it, too many .* or remove the line; .*data\.leave_out_faulty=true"):
        load(folder)


def test_any_number_of_faulty_lines_may_go_where_that_is_asked_for(beir_folder, capsys):
    folder = beir_folder()
    empty(folder, range(3, 9))
    missing(folder, 20)
    dataset = load(folder, leave_out_faulty=True)
    assert (dataset.documents.num_rows, len(dataset.judgements)) == (34, 80 - 12)
    said = capsys.readouterr().err
    assert "corpus.jsonl:4: document 'd3' has neither title nor text; 6 of 40 documents are like it and left out" in said
    assert "test.tsv:14: document 'none0' is not in corpus.jsonl; 20 of 32 judgements are like it and left out" in said


def test_of_a_large_file_one_line_in_a_hundred_may_be_faulty(tmp_path, capsys):
    lines = [json.dumps({"_id": f"d{row}", "text": "" if row < 11 else "x"}) for row in range(1_100)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    assert load(tmp_path).documents.num_rows == 1_089
    lines[500] = '{"_id": "d500"}'
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: document 'd0' .* 12 of 1100 documents are like it"):
        load(tmp_path)


def test_refuses_a_line_that_is_not_utf8(beir_folder):
    folder = beir_folder()
    content = (folder / CORPUS).read_bytes().replace(b"Volcanoes", b"Volc\xe3noes")
    (folder / CORPUS).write_bytes(content)
    with pytest.raises(DataError, match=r"corpus\.jsonl:3: not UTF-8"):
        load(folder)


def test_refuses_a_file_that_is_there_twice(beir_folder):
    folder = beir_folder()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / CORPUS).read_bytes()))
    with pytest.raises(DataError, match=r"corpus\.jsonl: is there both plain and as corpus\.jsonl\.gz; remove one"):
        load(folder)


def test_refuses_judgements_without_queries(beir_folder):
    folder = beir_folder()
    (folder / QUERIES).unlink()
    with pytest.raises(DataError, match=r"there is no queries\.jsonl"):
        load(folder)


def test_refuses_a_folder_that_is_not_beir(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match=r"no corpus\.jsonl; a folder in BEIR layout has .* There is: photo\.jpg"):
        load(tmp_path)
    with pytest.raises(DataError, match="is a file; a folder in BEIR layout has"):
        load(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match="does not exist; a folder in BEIR layout has"):
        load(tmp_path / "nowhere")


def test_whole_numbers_serve_as_ids(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": 7, "text": "x"}\n')
    assert load(tmp_path).documents.column("id").to_pylist() == ["7"]


def test_fields_outside_of_metadata_are_told_once(tmp_path, capsys):
    lines = [
        {"_id": "1", "text": "a", "url": "x", "metadata": {"kind": "k"}},
        {"_id": "2", "text": "b", "url": "y", "category": "z"},
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    load(tmp_path)
    [told] = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert told.startswith(f"warning: {tmp_path / 'corpus.jsonl'}: ignored: category, url; put what is to be shown")
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "1", "text": "a"} | dict.fromkeys("qrstuvw", 1)))
    load(tmp_path)
    assert "ignored: q, r, s, t, u and 2 more;" in capsys.readouterr().err


def test_a_plain_corpus_is_no_reason_to_warn_of_fields(beir_folder, capsys):
    load(beir_folder())
    assert "ignored" not in capsys.readouterr().err
