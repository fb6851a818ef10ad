"""Texts of a list and the same texts asked for at the same time: each is encoded once, and nobody waits in vain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crew import Crew, alone, crews, result
from make_snapshot import WORDS, make_oracle, make_snapshot
from manual_clock import ManualClock

from service.admission import Lane
from service.batching import BatchPlan, BatchSize
from service.cache import Known, VectorCache
from service.deadline import Deadline
from service.errors import DeadlineExceededError
from service.generation import Generation, GenerationOptions, open_generation
from service.queries import Queries
from service.steps import Encode, Pause, Ready, Steps, Vectors, Wait
from service.walk import Caller, Walk

ORACLE = make_oracle(rows=50)


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    layout = make_snapshot(Path(tmp_path_factory.mktemp("registry")), rows=50)
    opened = open_generation(layout, GenerationOptions(batching=False), lambda step: None)
    opened.encoder.batching = BatchPlan((BatchSize(tokens=64, rows=2, gain=2.0),))
    yield opened
    opened.close()


@pytest.fixture
def cache() -> VectorCache:
    return VectorCache(1 << 20)


def walk_of(budget_ms: float = 1000) -> Walk:
    clock = ManualClock()
    return Walk(Deadline.after(budget_ms, clock(), clock), Caller())


def many(generation: Generation, texts: list[str], cache: VectorCache) -> Steps[list[Known]]:
    return Queries(generation, walk_of(), cache).many(texts)


def one(generation: Generation, text: str, cache: VectorCache) -> Steps[Known]:
    return Queries(generation, walk_of(), cache).one(text)


def ended(steps: Steps[list[Known]], sent: Vectors | None = None) -> np.ndarray:
    try:
        while isinstance(step := steps.send(sent), Pause | Ready):
            sent = None
    except StopIteration as stop:
        return np.concatenate([known.vector for known in stop.value])
    pytest.fail(f"it has not ended: {step}")


def test_a_list_does_not_encode_what_another_request_is_encoding(generation: Generation, cache: VectorCache) -> None:
    leader = one(generation, "apple", cache)
    need = next(leader)
    assert isinstance(need, Encode)
    texts, called = ["apple", "bread", "chair"], list[str]()
    steps = many(generation, texts, cache)
    while isinstance(step := next(steps), Pause):
        pass
    assert isinstance(step, Wait)
    assert cache.stats.entries == cache.stats.misses == 2  # its own are there for others while it waits
    assert step.join(lambda: called.append("go on"))
    with pytest.raises(StopIteration):
        leader.send(need.graph.embed([need.ids]))
    assert called == ["go on"]
    np.testing.assert_allclose(ended(steps), ORACLE.encode(texts), atol=1e-6)
    assert (cache.stats.misses, cache.stats.shared, cache.stats.hits) == (3, 1, 1)


def test_where_that_one_gives_up_the_list_encodes_it(generation: Generation, cache: VectorCache) -> None:
    leader = one(generation, "apple", cache)
    next(leader)
    steps = many(generation, ["apple", "bread"], cache)
    while isinstance(step := next(steps), Pause):
        pass
    assert isinstance(step, Wait)
    called: list[str] = []
    step.join(lambda: called.append("go on"))
    with pytest.raises(DeadlineExceededError):
        leader.throw(walk_of().exceeded("encode"))
    assert called == ["go on"]
    need = steps.send(None)
    assert isinstance(need, Encode)
    np.testing.assert_allclose(ended(steps, need.graph.embed([need.ids])), ORACLE.encode(["apple", "bread"]), atol=1e-6)


def test_between_two_calls_of_the_graph_nobody_waits_for_a_list(generation: Generation, cache: VectorCache) -> None:
    steps = many(generation, list(WORDS[:6]), cache)
    assert isinstance(next(steps), Pause)
    assert cache.stats.entries == 2
    walk = walk_of()
    alone(Queries(generation, walk, cache).one(WORDS[5]), walk)  # would fail if it had to wait
    ended(steps)
    assert (cache.stats.misses, cache.stats.hits) == (6, 1)


@pytest.mark.parametrize(("words", "most"), [(1, 64), (100, 64), (1000, 8), (5000, 1)])
def test_others_wait_for_no_more_of_a_list_than_a_page_of_text(
    generation: Generation, cache: VectorCache, monkeypatch: pytest.MonkeyPatch, words: int, most: int
) -> None:
    """Not while 32 texts of 32 kB are tokenized at once."""
    tokenize, chunks = generation.encoder.tokenize, list[list[str]]()
    monkeypatch.setattr(generation.encoder, "tokenize", lambda texts: chunks.append(list(texts)) or tokenize(texts))
    texts = [f"{number} " + "a " * (words - 1) + "apple" for number in range(70)]
    steps = many(generation, texts, cache)
    assert isinstance(next(steps), Pause)
    assert len(chunks) == 1
    np.testing.assert_allclose(ended(steps), ORACLE.encode(texts), atol=1e-6)
    assert [text for chunk in chunks for text in chunk] == texts
    assert max(map(len, chunks)) == most


def test_a_graph_that_fails_leaves_nobody_waiting(
    generation: Generation, cache: VectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(generation.encoder, "embed", fail)
        with pytest.raises(RuntimeError):
            next(many(generation, ["apple", "bread"], cache))
    ended(many(generation, ["apple", "bread"], cache))
    assert cache.stats.misses == 2


@pytest.fixture
def crew() -> Iterator[Crew]:
    with crews() as make:
        yield make(3)


def test_lists_and_single_queries_from_many_threads_encode_each_text_once(
    generation: Generation, crew: Crew, cache: VectorCache
) -> None:
    texts, futures = list(WORDS[:12]), []
    for turn in range(60):
        walk, asked = crew.walk(), [texts[(turn * 5 + place * 7) % 12] for place in range(6)]
        queries = Queries(generation, walk, cache)
        single = turn % 3 == 0
        steps = queries.one(asked[0]) if single else queries.many(asked)
        futures.append((asked[:1] if single else asked, crew.submit(steps, Lane.SEARCH if single else Lane.BATCH, walk)))
    for asked, future in futures:
        found = result(future)
        vectors = [known.vector for known in (found if isinstance(found, list) else [found])]
        np.testing.assert_allclose(np.concatenate(vectors), ORACLE.encode(asked), atol=1e-6)
    assert cache.stats.misses == 12
