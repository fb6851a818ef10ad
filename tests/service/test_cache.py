"""Remembered vectors: least recently used out first, bounded in bytes, found out once; a plain model is the oracle."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache import Key, Known, VectorCache

WAIT_SECONDS = 10
TEXTS = [f"query {i}" * (1 + i) for i in range(6)]


def known_of(dim: int) -> Known:
    return Known(np.zeros((1, dim), np.float32), dim, False)


def size(text: str, known: Known) -> int:
    return sys.getsizeof(text) + known.bytes


class Model:
    """A list, least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.entries: list[tuple[str, Known]] = []
        self.hits = self.evictions = 0

    @property
    def bytes(self) -> int:
        return sum(size(*entry) for entry in self.entries)

    def get(self, text: str) -> Known | None:
        found = [entry for entry in self.entries if entry[0] == text]
        self.entries = [entry for entry in self.entries if entry[0] != text] + found
        self.hits += len(found)
        return found[0][1] if found else None

    def put(self, text: str, known: Known) -> None:
        if text in dict(self.entries) or size(text, known) > self.max_bytes:
            return
        self.entries.append((text, known))
        while self.bytes > self.max_bytes:
            self.entries.pop(0)
            self.evictions += 1


OPERATIONS = st.lists(st.tuples(st.sampled_from(TEXTS), st.none() | st.sampled_from([4, 100, 500])), max_size=60)


@given(OPERATIONS, st.sampled_from([0, 500, 1500, 3000, 6000]))
def test_the_cache_is_the_model(operations: list[tuple[str, int | None]], max_bytes: int) -> None:
    cache, model = VectorCache(max_bytes), Model(max_bytes)
    for text, dim in operations:
        if dim is None:
            assert cache.get(("tower", text)) is model.get(text)
        else:
            known = known_of(dim)
            cache.put(("tower", text), known)
            model.put(text, known)
        stats = cache.stats
        assert stats.bytes == model.bytes <= max_bytes
        assert (stats.entries, stats.evictions) == (len(model.entries), model.evictions)
        assert (stats.hits, stats.misses, stats.shared) == (model.hits, 0, 0)  # nobody led


def test_what_was_asked_for_last_stays() -> None:
    cache = VectorCache(2 * size("a", known_of(4)))
    for text in ("a", "b"):
        cache.put(("tower", text), known_of(4))
    assert cache.get(("tower", "a")) is not None
    cache.put(("tower", "c"), known_of(4))
    assert [cache.get(("tower", text)) is not None for text in "abc"] == [True, False, True]


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("length", [1, 100])
def test_an_entry_costs_what_it_takes_in_memory(asked: int, length: int) -> None:
    """What is counted is no less than what tracemalloc sees, so that the bound is one on memory."""
    cache = VectorCache(1 << 24)
    tracemalloc.start()
    try:
        for i in range(2000):
            for _ in range(asked):  # each time in a string of its own
                key = f"tower {i % 2}", f"a query of some length, number {i}" * length
                if cache.get(key) is None:
                    cache.put(key, Known(np.zeros((1, 384), np.float32), 8, False))
        del key
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1.0 <= cache.stats.bytes / used <= 1.25


def test_too_large_an_entry_is_not_kept_and_drives_nobody_out() -> None:
    cache = VectorCache(3000)
    cache.put(("tower", "small"), known_of(4))
    cache.put(("tower", "large"), known_of(1000))
    assert cache.get(("tower", "large")) is None
    assert cache.get(("tower", "small")) is not None


def test_towers_do_not_share_entries() -> None:
    cache = VectorCache(10_000)
    known = known_of(4)
    cache.put(("one", "apple"), known)
    assert cache.get(("another", "apple")) is None
    assert cache.get(("one", "apple")) is known


def test_off_keeps_nothing() -> None:
    cache = VectorCache(0)
    cache.put(("tower", ""), known_of(1))
    assert not cache.on
    assert cache.get(("tower", "")) is None
    assert (cache.stats.entries, cache.stats.bytes, cache.stats.evictions) == (0, 0, 0)


# -- one computation however many ask

KEY: Key = ("tower", "apple")


class Asker:
    """Counts how often it is called back."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_the_first_leads_the_others_wait_and_all_get_its_vector() -> None:
    cache, askers, known = VectorCache(10_000), [Asker(), Asker()], known_of(4)
    assert cache.get_or_lead(KEY) == (None, True)
    for asker in askers:
        assert cache.get_or_lead(KEY) == (None, False)
        assert cache.join(KEY, asker)
    assert [asker.calls for asker in askers] == [0, 0]
    cache.put(KEY, known)
    assert [asker.calls for asker in askers] == [1, 1]
    for _ in askers:
        assert cache.get_or_lead(KEY) == (known, False)
    stats = cache.stats
    assert (stats.misses, stats.shared, stats.hits) == (1, 2, 2)


def test_a_leader_that_gives_up_hands_over_to_one_of_those_who_wait() -> None:
    cache, askers, known = VectorCache(10_000), [Asker(), Asker()], known_of(4)
    cache.get_or_lead(KEY)
    for asker in askers:
        cache.get_or_lead(KEY)
        cache.join(KEY, asker)
    cache.abandon(KEY)
    assert [asker.calls for asker in askers] == [1, 1]
    assert [cache.get_or_lead(KEY) for _ in askers] == [(None, True), (None, False)]
    assert cache.join(KEY, askers[1])
    assert cache.stats.misses == 0
    cache.put(KEY, known)
    assert [asker.calls for asker in askers] == [1, 2]
    assert cache.get_or_lead(KEY) == (known, False)
    assert cache.stats.misses == 1  # who gave up has encoded nothing


@pytest.mark.parametrize("end", ["put", "abandon", "nobody led"])
def test_who_comes_too_late_to_wait_is_told_and_not_called(end: str) -> None:
    cache, asker = VectorCache(10_000), Asker()
    if end != "nobody led":
        cache.get_or_lead(KEY)
        cache.get_or_lead(KEY)  # a follower, who has not joined yet
        cache.put(KEY, known_of(4)) if end == "put" else cache.abandon(KEY)
    assert not cache.join(KEY, asker)
    assert asker.calls == 0


def test_a_vector_that_is_too_large_to_keep_still_ends_the_waiting() -> None:
    cache, asker = VectorCache(1000), Asker()
    cache.get_or_lead(KEY)
    cache.join(KEY, asker)
    cache.put(KEY, known_of(1000))
    assert asker.calls == 1
    assert cache.get_or_lead(KEY) == (None, True)


class Threads:
    """Ask for the same queries at the same moment, each as a request does; every ``fails``-th computation fails."""

    def __init__(self, count: int, fails: int = 0) -> None:
        self.cache = VectorCache(1 << 20)
        self.computed: list[str] = []
        self.found: list[tuple[str, Any]] = []
        self._fails = fails
        self._attempts = 0
        self._barrier = threading.Barrier(count)
        self._threads = [threading.Thread(target=self._ask_all) for _ in range(count)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()

    def _ask_all(self) -> None:
        for i in range(50):
            self._barrier.wait(WAIT_SECONDS)
            text = f"query {i}"
            self.found.append((text, self._ask(("tower", text))))

    def _ask(self, key: Key) -> Known | None:
        while True:
            known, leads = self.cache.get_or_lead(key)
            if known is not None:
                return known
            if leads:
                return self._compute(key)
            called = threading.Event()
            if self.cache.join(key, called.set):
                assert called.wait(WAIT_SECONDS)

    def _compute(self, key: Key) -> Known | None:
        self._attempts += 1
        if self._fails and self._attempts % self._fails == 0:
            self.cache.abandon(key)
            return None
        self.computed.append(key[1])
        known = known_of(4)
        self.cache.put(key, known)
        return known


def test_each_query_is_computed_once_however_many_ask() -> None:
    threads = Threads(8)
    threads.run()
    assert sorted(threads.computed) == sorted({text for text, _ in threads.found})
    assert len(threads.found) == 8 * 50
    for text, known in threads.found:
        assert known is threads.cache.get(("tower", text))
    assert threads.cache.stats.misses == 50


def test_when_leaders_fail_the_others_are_answered_all_the_same() -> None:
    threads = Threads(8, fails=2)
    threads.run()
    assert set(Counter(threads.computed).values()) == {1}
    failed = sum(known is None for _, known in threads.found)
    assert 0 < failed == threads._attempts - len(threads.computed)
    assert len(threads.found) == 8 * 50


def test_the_head_is_what_was_asked_again_of_a_tower_the_latest_first() -> None:
    cache = VectorCache(1 << 20)
    for text in "abcd":
        cache.put(("t", text), known_of(4))
    cache.put(("other", "a"), known_of(4))
    for text in ("c", "a", "d", "a"):
        cache.get(("t", text))
    assert cache.head("t", 10) == ["a", "d", "c"]
    assert cache.head("t", 2) == ["a", "d"]
    assert cache.head("other", 10) == []


def test_what_is_evicted_is_not_of_the_head_when_it_comes_again() -> None:
    one = known_of(4)
    cache = VectorCache(size("a", one) * 2)
    cache.put(("t", "a"), one)
    cache.get(("t", "a"))
    for text in "bc":
        cache.put(("t", text), one)
    cache.put(("t", "a"), one)
    assert cache.head("t", 10) == []
