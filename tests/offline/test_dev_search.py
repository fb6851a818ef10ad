import numpy as np
import pyarrow as pa
import pytest
from tiny_models import make_tiny_bert
from tiny_training import make_recipe
from tiny_work import make_prepared

from offline.batches import Pairs
from offline.data.prepared import Prepared, write_table
from offline.dev_search import searched_rows, split_dev
from offline.learner import encode_with
from offline.stage_one import join, load_pairs
from offline.towers import build_tower, encode
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=32)


def split(tmp_path, rows=60, splits=("train", "dev", "test"), **train):
    recipe = make_recipe(tmp_path, train=train)
    prepared = Prepared(make_prepared(tmp_path / "prepare", rows, splits))
    pairs = load_pairs(prepared, recipe.text, recipe.train)
    return pairs, *split_dev(prepared, recipe, pairs)


def test_all_rows_are_searched_where_they_are_few():
    assert searched_rows(5, [np.array([3])], 9, seed=1).tolist() == [0, 1, 2, 3, 4]


def test_relevant_rows_come_first_where_they_are_many():
    rows = searched_rows(1000, [np.array([900, 7]), np.arange(100, 120)], 30, seed=1)
    assert len(rows) == len(set(rows.tolist())) == 30
    assert {900, 7, *range(100, 120)} <= set(rows.tolist())
    assert rows.tolist() == sorted(rows.tolist())
    assert searched_rows(1000, [np.array([900, 7]), np.arange(100, 120)], 12, seed=1).tolist()[-1] == 900


@pytest.mark.parametrize(("rows", "splits"), [(300, ("train", "dev", "test")), (60, ("dev", "test"))])
def test_a_dev_split_is_taken_as_it_is_if_it_is_large_or_nothing_like_it_is_learnt(tmp_path, rows, splits):
    pairs, learnt, dev = split(tmp_path, rows, splits)
    assert learnt is pairs
    assert (dev.split, len(dev)) == ("dev", rows // len(splits))


def test_a_dev_split_of_few_queries_gets_some_of_train(tmp_path, capsys):
    pairs, learnt, dev = split(tmp_path, dev={"held_out_share": 0.1})
    assert (dev.split, len(dev), len(dev.judgements)) == ("dev and held-out", 20 + 6, 20 + 6)
    assert len(learnt) == len(pairs) - 6
    assert set(dev.texts[20:]).isdisjoint(learnt.queries)
    assert "20 dev queries: 6 training queries are held out" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "held"), [(60, 6), (400, 40), (1100, 100)])
def test_where_a_share_is_few_a_tenth_is_held_out_up_to_what_makes_a_measure(tmp_path, rows, held):
    _, _, dev = split(tmp_path, rows, splits=())
    assert len(dev) == held


def test_no_more_are_held_out_than_are_measured(tmp_path):
    pairs, learnt, dev = split(tmp_path, splits=(), dev={"held_out_share": 0.5, "max_queries": 7})
    assert len(dev) == 7
    assert len(learnt) == len(pairs) - 7


def test_of_documents_that_all_ask_for_queries_alone_are_held_out(tmp_path):
    recipe = make_recipe(tmp_path, train={"dev": {"held_out_share": 0.1}})
    prepared = Prepared(make_prepared(tmp_path / "prepare", splits=()))
    queries = [f"query {number}" for number in range(20) for _ in range(30)]
    rows = np.tile(np.arange(30), 20)
    pairs = Pairs(queries, [f"document {row}" for row in rows], rows)
    learnt, dev = split_dev(prepared, recipe, pairs)
    assert len(dev) == 2
    assert len(learnt) == 18 * 30
    assert set(dev.texts).isdisjoint(learnt.queries)
    assert all(len(scores) == 30 for scores in dev.judgements)


def test_a_sample_of_dev_is_the_same_each_time(tmp_path):
    _, _, dev = split(tmp_path, dev={"max_queries": 7})
    _, _, again = split(tmp_path, dev={"max_queries": 7})
    assert len(dev) == len(dev.judgements) == 7
    assert dev == again


def test_held_out_queries_and_documents_are_not_learnt(tmp_path):
    pairs, learnt, dev = split(tmp_path, splits=(), dev={"held_out_share": 0.1})
    assert dev.split == "held-out"
    held = {row for scores in dev.judgements for row in scores}
    assert len(held) == 6
    assert held.isdisjoint(learnt.rows.tolist())
    assert set(dev.texts).isdisjoint(learnt.queries)
    assert len(learnt) + len(dev) == len(pairs)


def test_of_few_documents_none_is_held_out(tmp_path):
    pairs, learnt, dev = split(tmp_path, rows=19, splits=())
    assert learnt is pairs
    assert dev is None


@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_learner_encodes_as_its_tower_and_goes_on_learning(tmp_path, batch_size):
    backbone = make_tiny_bert(tmp_path / "bert")
    towers = (build_tower(str(backbone)), build_tower(str(backbone)))
    learner = join(towers, make_recipe(backbone, train={"precision": "fp32"}).train).train()
    texts = ["one", "two words", "and here are three words or more"]
    found = encode_with(learner, "query", towers[0], SPEC, texts, batch_size)
    assert towers[0].training
    np.testing.assert_allclose(found, encode(towers[0], SPEC, texts), atol=1e-6)


def test_held_out_queries_know_the_documents_of_their_own_ids(tmp_path):
    recipe = make_recipe(tmp_path, train={"dev": {"held_out_share": 0.5}})
    prepared = Prepared(make_prepared(tmp_path / "prepare", 60, ("train",)))
    table = prepared.queries.set_column(0, "id", pa.array([f"d{(row + 1) % 60}" for row in range(60)]))
    write_table(table, tmp_path / "prepare" / "queries.arrow")
    prepared = Prepared(tmp_path / "prepare")
    _, dev = split_dev(prepared, recipe, load_pairs(prepared, recipe.text, recipe.train))
    assert dev.with_own == len(dev) > 0
    assert all(dev.own[name] == (min(scores) + 1) % 60 for name, scores in zip(dev.ids, dev.judgements, strict=True))
