import pyarrow as pa
import pytest

from offline.data.prepared import QRELS, QUERIES, Prepared, write_table
from offline.judged import load_judged
from offline.recipe import Recipe


def prepared(folder, queries, qrels):
    rows = [dict(zip(QUERIES.names, query, strict=True)) for query in queries]
    write_table(pa.Table.from_pylist(rows, QUERIES), folder / "queries.arrow")
    rows = [dict(zip(QRELS.names, judgement, strict=True)) for judgement in qrels]
    write_table(pa.Table.from_pylist(rows, QRELS), folder / "qrels.arrow")
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
