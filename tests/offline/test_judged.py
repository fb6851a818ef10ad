import numpy as np
import pyarrow as pa
import pytest

from offline.data.prepared import QRELS, QUERIES, Prepared, write_table
from offline.judged import load_judged, own_of_train
from offline.recipe import Recipe


def prepared(folder, queries, qrels, documents=()):
    rows = [dict(zip(QUERIES.names, query, strict=True)) for query in queries]
    write_table(pa.Table.from_pylist(rows, QUERIES), folder / "queries.arrow")
    rows = [dict(zip(QRELS.names, judgement, strict=True)) for judgement in qrels]
    write_table(pa.Table.from_pylist(rows, QRELS), folder / "qrels.arrow")
    write_table(pa.table({"id": pa.array(documents, pa.string())}), folder / "documents.arrow")
    return Prepared(folder)


def recipe(relevance=1, **evaluate):
    return Recipe.model_validate({"name": "t", "data": {"relevance": relevance}, "evaluate": evaluate})


def test_the_split_of_the_recipe(tmp_path):
    data = prepared(
        tmp_path,
        [("a", "first", "test"), ("b", "second", "dev"), ("c", "third", "train")],
        [("test", "a", 4, 1), ("test", "a", 5, 0), ("dev", "b", 6, 1), ("train", "c", 7, 1)],
    )
    judged = load_judged(data, recipe())
    assert (judged.split, judged.ids, judged.texts) == ("test", ("a",), ("first",))
    assert judged.judgements == ({4: 1, 5: 0},)
    assert load_judged(data, recipe(split="dev")).ids == ("b",)


def test_dev_stands_in_for_a_missing_test_split(tmp_path):
    judged = load_judged(prepared(tmp_path, [("b", "second", "dev")], [("dev", "b", 6, 1)]), recipe())
    assert (judged.split, len(judged)) == ("dev", 1)


def test_without_judgements_there_is_nothing(tmp_path):
    assert load_judged(prepared(tmp_path, [("c", "third", "train")], [("train", "c", 7, 1)]), recipe()) is None
    assert load_judged(prepared(tmp_path / "none", [], []), recipe()) is None


def test_queries_without_a_relevant_document_are_counted(tmp_path):
    queries = [("a", "x", "test"), ("b", "y", "test")]
    data = prepared(tmp_path, queries, [("test", "a", 1, 2), ("test", "b", 1, 1)])
    judged = load_judged(data, recipe(relevance=2))
    assert (judged.ids, judged.skipped) == (("a",), 1)


def test_a_sample_is_seeded_and_keeps_the_order(tmp_path):
    ids = [f"q{i:02}" for i in range(40)]
    data = prepared(tmp_path, [(name, name, "test") for name in ids], [("test", name, 0, 1) for name in ids])
    judged = load_judged(data, recipe(max_queries=10))
    assert len(judged) == len(judged.judgements) == 10
    assert list(judged.ids) == sorted(judged.ids) == list(load_judged(data, recipe(max_queries=10)).ids)
    assert judged.ids != load_judged(data, recipe(max_queries=10, seed=5)).ids


@pytest.mark.parametrize(("scores", "pooled"), [((1, 1), False), ((1, 0), True), ((2, 3), True)])
def test_graded_judgements_and_zeros_mean_a_pool(tmp_path, scores, pooled):
    data = prepared(tmp_path, [("a", "x", "test")], [("test", "a", row, score) for row, score in enumerate((1, *scores))])
    assert load_judged(data, recipe()).is_pooled is pooled


def test_where_no_query_has_two_grades_nothing_is_told_apart(tmp_path):
    queries = [("a", "x", "test"), ("b", "y", "test")]
    data = prepared(tmp_path, queries, [("test", "a", 0, 2), ("test", "a", 1, 2), ("test", "b", 2, 1)])
    assert not load_judged(data, recipe()).is_pooled


def test_a_document_with_the_id_of_a_query_is_its_own(tmp_path):
    queries = [("5", "x", "test"), ("q", "y", "test"), ("7", "z", "test"), ("9", "t", "train")]
    qrels = [("test", "5", 0, 1), ("test", "5", 1, 0), ("test", "q", 2, 1), ("test", "7", 2, 1), ("train", "9", 0, 1)]
    data = prepared(tmp_path, queries, qrels, ["1", "5", "7", "9"])
    judged = load_judged(data, recipe())
    assert judged.own == {"5": 1}, "row 2 is judged relevant to the query of its id"
    assert (judged.with_own, judged.depth(10), own_of_train(data)) == (1, 11, {"t": 3})
    assert judged.without_own(np.array([[1, 0, 2], [1, 0, 2], [0, 1, -1]]), 2).tolist() == [[0, 2], [1, 0], [0, 1]]
    assert judged.without_own(np.array([[1, 0], [1, 0], [1, 0]]), 2).tolist() == [[0, -1], [1, 0], [1, 0]]
    assert (judged.take([1]).with_own, judged.take([1]).depth(10)) == (0, 10)


def test_without_such_documents_rankings_stay_as_they_are(tmp_path):
    judged = load_judged(prepared(tmp_path, [("a", "x", "test")], [("test", "a", 1, 1)], ["d0", "d1"]), recipe())
    rows = np.array([[3, 1, -1]])
    assert (judged.own, judged.depth(10)) == ({}, 10)
    assert judged.without_own(rows, 3).tolist() == rows.tolist()
