import pyarrow as pa
from tiny_work import make_prepared

from offline.data.prepared import PAIRS, TOWER_TEXTS, Prepared, write_table
from offline.judged import Judged
from offline.slices import cut
from snapshot.documents import document_field


def prepared(folder, texts, brands, train):
    make_prepared(folder, len(texts))
    schema = pa.schema([pa.field("id", pa.string()), document_field("brand", "string", filterable=True)])
    write_table(
        pa.table({"id": [f"d{i}" for i in range(len(texts))], "brand": brands}, schema=schema), folder / "documents.arrow"
    )
    write_table(pa.table({"title": [""] * len(texts), "text": texts}, schema=TOWER_TEXTS), folder / "tower_texts.arrow")
    rows = len(train)
    columns = {"query": train, "title": [""] * rows, "text": ["x"] * rows, "row": [0] * rows}
    write_table(pa.table(columns, schema=PAIRS), folder / "pairs.arrow")
    return Prepared(folder)


def test_each_division_takes_every_query_once(tmp_path):
    texts = ["common alpha"] + ["common"] * 59
    brands = ["one"] * 30 + ["two"] * 29 + ["three"]
    queries = ["common alpha", "common", "common words of a long question", "Zebra"] + ["common"] * 56
    judged = Judged("test", tuple(f"q{i}" for i in range(60)), tuple(queries), tuple({i: 1} for i in range(60)), 1, 0)
    found = cut(judged, prepared(tmp_path, texts, brands, ["common", "words of a"]))
    by = {}
    for one in found:
        by.setdefault(one.by, {})[one.name] = int(one.mask.sum())
    assert by == {
        "words in the query": {"1 to 3": 59, "4 to 7": 1},
        "documents with its rarest word": {"0": 2, "1 to 10": 1, "11 to 100": 57},
        "words in training queries": {"all seen": 57, "one unseen": 2, "several unseen": 1},
        "brand of the relevant document": {"one": 30, "two": 29, "(others)": 1},
    }


def test_words_of_scripts_without_spaces_are_pairs_of_characters(tmp_path):
    texts = ["東京都の天気予報を見る"] + ["大阪の天気"] * 59
    queries = ["東京の天気", "天気", "東京都の天気予報を見る"] + ["天気"] * 57
    judged = Judged("test", tuple(f"q{i}" for i in range(60)), tuple(queries), tuple({i: 1} for i in range(60)), 1, 0)
    found = cut(judged, prepared(tmp_path, texts, [""] * 60, ["大阪の天気"]))
    by = {}
    for one in found:
        by.setdefault(one.by, {})[one.name] = int(one.mask.sum())
    assert by == {
        "words in the query": {"1 to 3": 59, "4 to 7": 1},
        "documents with its rarest word": {"0": 1, "1 to 10": 1, "11 to 100": 58},
        "words in training queries": {"all seen": 58, "several unseen": 2},
    }


def test_a_column_that_names_documents_is_no_division(tmp_path):
    rows = 60
    judged = Judged("test", ("q0", "q1"), ("a", "b"), ({0: 1}, {1: 1}), 1, 0)
    found = cut(judged, prepared(tmp_path, ["a"] * rows, [f"brand {i}" for i in range(rows)], ["a"]))
    assert all("brand" not in one.by for one in found)
