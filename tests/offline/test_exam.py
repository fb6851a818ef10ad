"""Which queries choose weights while a student is refined."""

import numpy as np
import pyarrow as pa
import pytest

from offline import exam
from offline.data.prepared import QRELS, QUERIES, Prepared, write_table
from offline.exam import halves, hold_out, judged_queries
from offline.judged import judged_split
from offline.recipe import Recipe


def prepared(folder, *queries):
    """Each query (id, text, split) is judged in its split."""
    names = ("id", "text", "split")
    write_table(pa.table(dict(zip(names, zip(*queries, strict=True), strict=True)), schema=QUERIES), folder / "queries.arrow")
    rows = [{"split": split, "query_id": key, "row": 0, "score": 1} for key, _, split in queries]
    write_table(pa.Table.from_pylist(rows, schema=QRELS), folder / "qrels.arrow")
    write_table(pa.table({"id": ["document"]}), folder / "documents.arrow")
    return Prepared(folder)


def of(split, count):
    return [(f"{split}{number}", f"{split} text {number}", split) for number in range(count)]


def recipe(**refine):
    return Recipe.model_validate({"name": "toy", "refine": refine})


def test_enough_dev_queries_choose_alone(tmp_path):
    judged = judged_queries(prepared(tmp_path, *of("dev", 120), *of("train", 4000)), recipe(max_dev_queries=110))
    assert (judged.split, len(judged)) == ("dev", 110)


def test_few_dev_queries_choose_with_some_of_train(tmp_path):
    judged = judged_queries(prepared(tmp_path, *of("dev", 60), *of("train", 1000)), recipe())
    assert (judged.split, len(judged)) == ("dev and train", 110)
    assert sum(key.startswith("dev") for key in judged.ids) == 60


def test_dev_queries_that_are_few_with_train_are_not_forgotten(tmp_path):
    judged = judged_queries(prepared(tmp_path, *of("dev", 60), *of("train", 200)), recipe())
    assert (judged.split, len(judged)) == ("dev", 60)
    assert judged_queries(prepared(tmp_path, *of("train", 200)), recipe()) is None


def test_a_train_query_with_the_text_of_a_test_query_chooses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(exam, "LEAST_JUDGED", 1)
    monkeypatch.setattr(exam, "share_of", lambda count: count)
    data = prepared(tmp_path, ("a", "How to list files?", "train"), ("b", "other", "train"), ("t", "how to list  files", "test"))
    assert judged_queries(data, recipe()).ids == ("b",)


def test_halves_are_of_all_and_have_nothing_in_common(tmp_path):
    data = prepared(tmp_path, *of("dev", 301))
    first, second = halves(judged_split(data, recipe(), "dev"))
    assert (len(first), len(second)) == (151, 150)
    assert not set(first.ids) & set(second.ids)
    assert judged_queries(data, recipe(half_of_dev=True, seed=5)).ids == first.ids


@pytest.mark.parametrize(
    ("real", "mined", "judged", "held"),
    [
        (0, 0, 0, 0),
        (100, 0, 0, 50),
        (300, 9000, 0, 100),
        (30, 9000, 0, 100),
        (30, 9000, 60, 40),
        (0, 9000, 0, 450),
        (100_000, 0, 0, 500),
        (10, 30, 0, 20),
        (300, 9000, 100, 0),
    ],
)
def test_texts_are_held_out_up_to_what_makes_a_measure(real, mined, judged, held):
    texts = [[f"{kind}{number}" for number in range(count)] for kind, count in (("real", real), ("mined", mined))]
    chosen = hold_out(*texts, judged)
    assert len(chosen) == len(set(chosen)) == held


def test_few_judged_queries_are_measured_beside_agreement(tmp_path, monkeypatch):
    judged = judged_split(prepared(tmp_path, *of("dev", 2)), recipe(), "dev")
    rows = np.array([[0, 1], [1, 2], [3, 4]])
    monkeypatch.setattr(exam.towers, "encode", lambda *_: np.zeros((3, 2), np.float32))
    asked = exam.Exam(["a", "b", "c"], judged, np.array([[4, 5]]))
    assert asked.values(None, None, lambda *_: (None, rows)).tolist() == [1.0, 0.0, 0.5]
    assert asked.name == "nDCG@10 on dev and agreement@10 with the teacher"
    assert not asked.is_enough
