"""Vectors of queries: remembered or not they are the same, by tower and text, and one who fails leaves nobody waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crew import WAIT_SECONDS, Crew, alone, crews, error, result
from make_snapshot import WORDS, make_oracle, make_snapshot
from manual_clock import ManualClock
from serving import hooked

from service.batching import BatchPlan, BatchSize
from service.cache import Key, Known, VectorCache
from service.deadline import Deadline
from service.errors import CallerGoneError, DeadlineExceededError
from service.generation import Generation, GenerationOptions, open_generation
from service.queries import Queries
from service.steps import Encode, Ready, Steps, Vectors, Wait
from service.walk import Caller, Walk

ORACLE = make_oracle(rows=50)
QUERIES = ["apple", "Bread chair", "bread chair", "drum", "  apple ", "fork glass horse", "zebra " * 30, "apple"]
"""Some are the same once they are rendered, some only as long as each other, and one is cut."""


def generation_of(folder: Path, **how: Any) -> Generation:
    layout = make_snapshot(folder, rows=50, **how)
    return open_generation(layout, GenerationOptions(batching=False), lambda step: None)


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Generation]]:
    folder: Path = tmp_path_factory.mktemp("registry")
    opened = {
        "flat": generation_of(folder / "flat"),
        "hnsw": generation_of(folder / "hnsw", kind="hnsw"),
        "other tower": generation_of(folder / "other", seed=1),
    }
    yield opened
    for generation in opened.values():
        generation.close()


@pytest.fixture
def generation(generations: dict[str, Generation]) -> Generation:
    return generations["flat"]


class Counted:
    """A generation that counts the queries that its graph encodes."""

    def __init__(self, generation: Generation) -> None:
        self.encoded = 0
        self.calls = 0
        self.generation = replace(generation, encoder=self)
        self._encoder = generation.encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed(self, ids: Any) -> Vectors:
        self.calls += 1
        self.encoded += len(ids)
        return self._encoder.embed(ids)


def walk_of(clock: ManualClock | None = None, budget_ms: float = 1000) -> Walk:
    clock = clock or ManualClock()
    return Walk(Deadline.after(budget_ms, clock(), clock), Caller())


def one(generation: Generation, query: str, cache: VectorCache) -> Known:
    walk = walk_of()
    return alone(Queries(generation, walk, cache).one(query), walk)


def many(generation: Generation, queries: list[str], cache: VectorCache) -> list[Known]:
    walk = walk_of()
    return alone(Queries(generation, walk, cache).many(queries), walk)


def cache_of(size: int = 1 << 20) -> VectorCache:
    return VectorCache(size)


def same(one: Known, other: Known) -> bool:
    return one.vector.tobytes() == other.vector.tobytes() and (one.tokens, one.truncated) == (other.tokens, other.truncated)


def test_remembered_vectors_are_bit_for_bit_those_of_the_graph(generation: Generation) -> None:
    cache = cache_of()
    for _ in range(2):
        for query in QUERIES:
            assert same(one(generation, query, cache), one(generation, query, VectorCache(0)))
    np.testing.assert_allclose(
        np.concatenate([one(generation, query, cache).vector for query in QUERIES]),
        ORACLE.encode([query.lower() for query in QUERIES]),
        atol=1e-6,
    )


def test_what_renders_to_the_same_text_is_encoded_once(generation: Generation) -> None:
    counted, cache = Counted(generation), cache_of()
    for query in QUERIES:
        one(counted.generation, query, cache)
    assert counted.encoded == cache.stats.misses == len({" ".join(query.lower().split()) for query in QUERIES}) == 5
    assert cache.stats.hits == len(QUERIES) - 5


def test_another_index_under_the_same_tower_finds_what_was_remembered(generations: dict[str, Generation]) -> None:
    cache, after = cache_of(), Counted(generations["hnsw"])
    before = [one(generations["flat"], query, cache) for query in QUERIES]
    assert all(same(known, one(after.generation, query, cache)) for known, query in zip(before, QUERIES, strict=True))
    assert after.encoded == 0


def test_another_tower_finds_nothing_and_gives_its_own_vectors(generations: dict[str, Generation]) -> None:
    cache, other = cache_of(), Counted(generations["other tower"])
    for query in QUERIES:
        before = one(generations["flat"], query, cache)
        after = one(other.generation, query, cache)
        assert same(after, one(generations["other tower"], query, VectorCache(0)))
        assert not same(before, after)
    assert other.encoded == 5
    assert same(one(generations["flat"], QUERIES[0], cache), one(generations["flat"], QUERIES[0], VectorCache(0)))


# -- many


@pytest.mark.parametrize("max_bytes", [0, 1 << 20])
def test_many_are_each_as_one(generation: Generation, max_bytes: int) -> None:
    found = many(generation, QUERIES, VectorCache(max_bytes))
    assert len(found) == len(QUERIES)
    for query, known in zip(QUERIES, found, strict=True):
        assert same(known, one(generation, query, VectorCache(0)))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_many_in_calls_of_any_size_have_the_vectors_of_the_oracle(generation: Generation, rows: int) -> None:
    queries = [" ".join(WORDS[i % 50 : i % 50 + 1 + i % 5]) or WORDS[i % 50] for i in range(150)]
    generation.encoder.batching = BatchPlan((BatchSize(tokens=64, rows=rows, gain=2.0),))
    try:
        found = many(generation, queries, cache_of())
    finally:
        generation.encoder.batching = BatchPlan()
    np.testing.assert_allclose(np.concatenate([known.vector for known in found]), ORACLE.encode(queries), atol=1e-6)
    assert [known.tokens for known in found] == [len(query.split()) + 2 for query in queries]
    assert {known.vector.base is None for known in found} == {True}  # part of no batch, which would stay in memory


def test_many_encode_only_what_is_not_known_and_remember_it(generation: Generation) -> None:
    counted, cache = Counted(generation), cache_of()
    one(counted.generation, "apple", cache)
    many(counted.generation, QUERIES, cache)
    assert counted.encoded == 5
    many(counted.generation, QUERIES[::-1], cache)
    one(counted.generation, "drum", cache)
    assert counted.encoded == 5


def test_many_repeated_are_encoded_once_even_if_nothing_is_remembered(generation: Generation) -> None:
    counted = Counted(generation)
    many(counted.generation, QUERIES * 3, VectorCache(0))
    assert counted.encoded == 5


def test_many_that_come_too_late_stop_between_two_calls_of_the_graph(generation: Generation) -> None:
    clock = ManualClock()
    costly = hooked(generation, lambda stage: clock.advance_ms(10 if stage == "encode" else 0))
    walk, cache = walk_of(clock, budget_ms=25), cache_of()
    with pytest.raises(DeadlineExceededError) as caught:
        alone(Queries(costly, walk, cache).many(list(WORDS[:20])), walk)
    assert caught.value.stage == "encode"
    assert caught.value.spent_ms is not None
    assert caught.value.spent_ms["encode"] == 30.0
    assert cache.stats.entries == cache.stats.misses == 3  # what was encoded is remembered
    counted = Counted(generation)
    many(counted.generation, list(WORDS[:20]), cache)
    assert counted.encoded == 17


# -- one text, several who ask


def led(generation: Generation, cache: VectorCache) -> tuple[Steps[Known], Encode]:
    """A request for "apple" that is about to encode it."""
    steps = Queries(generation, walk_of(), cache).one("apple")
    step = next(steps)
    assert isinstance(step, Encode)
    return steps, step


def followed(generation: Generation, cache: VectorCache) -> tuple[Steps[Known], list[str]]:
    """A request that waits for that one, and what it is told."""
    steps, called = Queries(generation, walk_of(), cache).one("apple"), []
    step = next(steps)
    assert isinstance(step, Wait)
    assert step.join(lambda: called.append("go on"))
    return steps, called


def run_on(steps: Steps[Known], sent: Vectors | None) -> None:
    while isinstance(steps.send(sent), Ready):
        sent = None


def ended(steps: Steps[Known], sent: Vectors | None) -> Known:
    with pytest.raises(StopIteration) as stop:
        run_on(steps, sent)
    known: Known = stop.value.value
    return known


def test_who_follows_gets_the_vector_of_who_leads(generation: Generation) -> None:
    cache = cache_of()
    leader, need = led(generation, cache)
    follower, called = followed(generation, cache)
    vector = need.graph.embed([need.ids])
    known = ended(leader, vector)
    assert called == ["go on"]
    assert ended(follower, None) is known
    np.testing.assert_array_equal(known.vector, vector)


def late(steps: Steps[Known]) -> None:
    with pytest.raises(DeadlineExceededError):
        steps.throw(walk_of().exceeded("encode"))


def gone(steps: Steps[Known]) -> None:
    with pytest.raises(CallerGoneError):
        steps.throw(CallerGoneError("encode"))


def broken(steps: Steps[Known]) -> None:
    with pytest.raises(RuntimeError):
        steps.throw(RuntimeError("out of memory"))


def forgotten(steps: Steps[Known]) -> None:
    steps.close()


@pytest.mark.parametrize("end", [late, gone, broken, forgotten])
def test_when_the_leader_is_dropped_its_followers_are_answered(
    generation: Generation, end: Callable[[Steps[Known]], None]
) -> None:
    cache = cache_of()
    leader, need = led(generation, cache)
    followers = [followed(generation, cache) for _ in range(2)]
    end(leader)
    assert [called for _, called in followers] == [["go on"], ["go on"]]
    first, second = followers[0][0], followers[1][0]
    assert isinstance(first.send(None), Encode)
    assert isinstance(second.send(None), Wait)
    known = ended(first, need.graph.embed([need.ids]))
    assert ended(second, None) is known


def test_a_check_that_refuses_the_leader_leaves_nobody_waiting(generation: Generation) -> None:
    """Whose tokens are too many for the time that is left never comes to the graph."""
    cache, heard = cache_of(), []

    def refuse(tokens: int) -> None:
        heard.append(tokens)
        raise walk_of().exceeded("encode")

    with pytest.raises(DeadlineExceededError):
        next(Queries(generation, walk_of(), cache).one("apple bread", refuse))
    assert heard == [4]
    one(generation, "apple bread", cache)
    assert cache.stats.entries == 1


@pytest.fixture
def crew() -> Iterator[Crew]:
    with crews() as make:
        yield make(2)


class Watched(VectorCache):
    """Tells when somebody waits."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.joined = threading.Event()

    def join(self, key: Key, resume: Callable[[], None]) -> bool:
        waits = super().join(key, resume)
        self.joined.set()
        return waits


def test_two_threads_and_a_leader_that_comes_too_late(generation: Generation, crew: Crew) -> None:
    """The leader's budget is spent while it tokenizes, and the other has waited for it until then."""
    cache, tokenizing = Watched(), threading.Event()
    stages: list[str] = []

    def hook(stage: str) -> None:
        stages.append(stage)
        if len(stages) == 1:
            tokenizing.set()
            assert cache.joined.wait(WAIT_SECONDS)
            crew.clock.advance_ms(20)

    slowed = hooked(generation, hook)
    walks = [crew.walk(budget_ms) for budget_ms in (10, 1000)]
    leader = crew.submit(Queries(slowed, walks[0], cache).one("apple"), walk=walks[0])
    assert tokenizing.wait(WAIT_SECONDS)
    follower = crew.submit(Queries(slowed, walks[1], cache).one("apple"), walk=walks[1])
    assert isinstance(error(leader), DeadlineExceededError)
    assert same(result(follower), one(generation, "apple", VectorCache(0)))
    assert stages == ["tokenize", "tokenize", "encode"]
    assert (cache.stats.misses, cache.stats.shared) == (1, 1)
    assert walks[1].spent_ms["queue"] == pytest.approx(20)


def test_the_same_text_from_many_threads_is_encoded_once(generation: Generation, crew: Crew) -> None:
    counted, cache = Counted(generation), cache_of()
    queries = [WORDS[i % 10] for i in range(200)]
    futures = []
    for query in queries:
        walk = crew.walk()
        futures.append(crew.submit(Queries(counted.generation, walk, cache).one(query), walk=walk))
    vectors = np.concatenate([result(future).vector for future in futures])
    np.testing.assert_allclose(vectors, ORACLE.encode(queries), atol=1e-6)
    assert counted.encoded == cache.stats.misses == 10
