import pytest

from offline.config import DistillConfig
from offline.lessons import quotas

THERE = {"train": 100, "log": 20, "title": 300, "sentence": 600}


def test_without_shares_real_queries_come_first():
    assert quotas(THERE, DistillConfig(max_texts=150)) == {"train": 100, "log": 20, "title": 10, "sentence": 20}
    assert quotas(THERE, DistillConfig(max_texts=None)) == THERE


def test_shares_are_kept():
    config = DistillConfig(max_texts=100, shares={"train": 0.5, "title": 0.25, "sentence": 0.25})
    assert quotas(THERE, config) == {"train": 50, "log": 0, "title": 25, "sentence": 25}


def test_what_a_source_lacks_the_others_give_by_their_shares():
    config = DistillConfig(max_texts=400, shares={"log": 0.5, "title": 0.1, "sentence": 0.4})
    assert quotas(THERE, config) == {"train": 0, "log": 20, "title": 76, "sentence": 304}


@pytest.mark.parametrize("total", [1, 7, 99, 101, 1019])
def test_all_that_is_asked_for_is_given_where_it_is_there(total):
    found = quotas(THERE, DistillConfig(max_texts=total, shares=dict.fromkeys(THERE, 0.3)))
    assert sum(found.values()) == total
    assert all(found[source] <= there for source, there in THERE.items())


def test_a_source_that_is_not_there_gives_nothing():
    assert quotas({"title": 5}, DistillConfig(shares={"generated": 0.9, "title": 0.1})) == {"title": 5}
