"""The threads that do the work: company at the graph, dropped work, and an end for every job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from crew import WAIT_SECONDS, Crew, FakeGraph, Gate, ask, crews, error, query, result, vector_of, work

from service.admission import Lane
from service.errors import CallerGoneError, DeadlineExceededError, DrainingError
from service.steps import Encode, Pause, Ready, Steps, Vectors, Wait


@pytest.fixture
def crew_of() -> Iterator[Callable[[int], Crew]]:
    with crews() as make:
        yield make


# -- company


def test_company_is_of_one_length_and_one_graph_and_no_more_than_pays(crew_of: Callable[[int], Crew]) -> None:
    crew, graph, other = crew_of(1), FakeGraph(rows=3), FakeGraph(rows=3)
    gate = crew.hold()
    asked = [(graph, 4), (graph, 5), (other, 4), (graph, 4), (graph, 4), (graph, 4), (graph, 5), (other, 4)]
    futures = [crew.submit(ask(of, query(i, length))) for i, (of, length) in enumerate(asked)]
    gate.open.set()
    for i, (_, length) in enumerate(asked):
        np.testing.assert_array_equal(result(futures[i]), vector_of(query(i, length)))
    assert graph.calls == [[0, 3, 4], [1, 6], [5]]
    assert other.calls == [[2, 7]]
    assert sorted(crew.counted) == [1, 2, 2, 3]


def test_where_company_does_not_pay_everyone_goes_alone(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=1)
    gate = crew.hold()
    futures = [crew.submit(ask(graph, query(i, 4))) for i in range(5)]
    gate.open.set()
    for future in futures:
        result(future)
    assert graph.calls == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lone_request_does_not_wait_for_company(crew_of: Callable[[int], Crew], threads: int) -> None:
    crew, graph = crew_of(threads), FakeGraph(rows=8)
    if threads == 2:
        crew.hold()  # busy with something else, and may want a vector later
    for number in range(3):
        walk = crew.walk()
        result(crew.submit(ask(graph, query(number, 4)), walk=walk))
        assert walk.timings_ms()["total"] == 0.0  # the clock stood still: there is nothing to wait for but other requests
    assert graph.calls == [[0], [1], [2]]


def test_what_was_tokenized_for_company_goes_before_what_is_new(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=2)
    gate = crew.hold()
    futures = [crew.submit(ask(graph, query(i, 4 + i))) for i in range(20)]
    gate.open.set()
    for future in futures:
        result(future)
    assert graph.calls == [[i] for i in range(20)]


def test_an_embedding_takes_searches_along(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=4)
    gate, encoding = crew.hold(), crew.gate()
    embedding = crew.submit(embed_after(encoding, graph), Lane.EMBED)
    gate.open.set()
    encoding.until_reached()
    searches = [crew.submit(ask(graph, query(i, 4))) for i in (2, 3)]
    encoding.open.set()
    for future, first in zip([embedding, *searches], (1, 2, 3), strict=True):
        np.testing.assert_array_equal(result(future), vector_of(query(first, 4)))
    assert graph.calls == [[1, 2, 3]]


def embed_after(gate: Gate, graph: FakeGraph) -> Steps[Vectors | None]:
    gate()
    return (yield Encode(graph, query(1, 4)))


def test_what_has_its_vector_is_not_worked_on_before_who_looks_for_company(crew_of: Callable[[int], Crew]) -> None:
    crew, graph, order = crew_of(1), FakeGraph(rows=4), []
    graph.hook = lambda: order.append("encoded")

    def remembered(number: int) -> Steps[None]:
        yield Ready()
        order.append(str(number))

    gate = crew.hold()
    first = crew.submit(ask(graph, query(1, 4)))
    others = [crew.submit(remembered(number)) for number in range(3)]
    second = crew.submit(ask(graph, query(2, 4)))
    gate.open.set()
    for future in (first, *others, second):
        result(future)
    assert order == ["encoded", "0", "1", "2"]
    assert graph.calls == [[1, 2]]


@pytest.mark.parametrize(("each_ms", "looked"), [(0, 16), (0.5, 4), (50, 1)])
def test_company_is_looked_for_among_so_many_and_not_for_long(
    crew_of: Callable[[int], Crew], each_ms: float, looked: int
) -> None:
    """What is long takes long to tokenize, and is no company for what is short."""
    crew, graph, looked_at = crew_of(1), FakeGraph(rows=4), []
    gate = crew.hold()
    first = crew.submit(ask(graph, query(1, 4)))
    second = crew.submit(tokenized(crew, each_ms, lambda: looked_at.append(0), graph))
    others = [crew.submit(tokenized(crew, each_ms, lambda number=number: looked_at.append(number))) for number in range(1, 30)]
    graph.hook = lambda: looked_at.append(-1)
    gate.open.set()
    np.testing.assert_array_equal(result(first), vector_of(query(1, 4)))
    np.testing.assert_array_equal(result(second), vector_of(query(2, 4)))
    for future in others:
        result(future)
    assert looked_at == [*range(looked), -1, *range(looked, 30)]
    assert graph.calls == [[1, 2]]


def test_company_is_not_waited_for_beyond_the_deadline(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=4)
    gate = crew.hold()
    walk = crew.walk(10)
    first = crew.submit(ask(graph, query(1, 4)), walk=walk)
    second = crew.submit(tokenized(crew, 16, lambda: None, graph))
    gate.open.set()
    assert isinstance(error(first), DeadlineExceededError)
    assert walk.spent_ms["queue"] == pytest.approx(16)
    assert "encode" not in walk.spent_ms
    np.testing.assert_array_equal(result(second), vector_of(query(2, 4)))


def tokenized(crew: Crew, ms: float, begin: Callable[[], object], graph: FakeGraph | None = None) -> Steps[Vectors | None]:
    """Takes so long to be tokenized; asks ``graph`` for a vector, else has it."""
    begin()
    crew.clock.advance_ms(ms)
    if graph is not None:
        return (yield Encode(graph, query(2, 4)))
    yield Ready()
    return None


def test_an_error_in_the_graph_reaches_every_member_of_its_call_and_no_other(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=3)

    def fail() -> None:
        if len(graph.calls) == 1:
            raise RuntimeError("out of memory")

    graph.hook = fail
    gate = crew.hold()
    futures = [crew.submit(ask(graph, query(i, 4))) for i in range(4)]
    gate.open.set()
    for future in futures[:3]:
        with pytest.raises(RuntimeError, match="out of memory"):
            result(future)
    np.testing.assert_array_equal(result(futures[3]), vector_of(query(3, 4)))


def test_a_stage_that_fails_ends_its_own_job_only(crew_of: Callable[[int], Crew]) -> None:
    crew = crew_of(1)
    assert isinstance(error(crew.submit(work(lambda: 1 // 0))), ZeroDivisionError)
    assert result(crew.submit(work(lambda: 7))) == 7


# -- late and gone


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("reason", [DeadlineExceededError, CallerGoneError])
def test_hopeless_work_is_not_encoded_first_or_as_company(
    crew_of: Callable[[int], Crew], reason: type[Exception], position: int
) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=4)
    gate = crew.hold()
    walks = [crew.walk(10 if i == position and reason is DeadlineExceededError else 1000) for i in range(4)]
    futures = [crew.submit(ask(graph, query(i, 4)), walk=walk) for i, walk in enumerate(walks)]
    crew.clock.advance_ms(11)
    walks[position].caller.gone = reason is CallerGoneError
    gate.open.set()
    ended = error(futures[position])
    assert isinstance(ended, reason)
    assert ended.stage == "encode"
    others = [i for i in range(4) if i != position]
    for i in others:
        np.testing.assert_array_equal(result(futures[i]), vector_of(query(i, 4)))
    assert graph.calls == [others]


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("reason", [DeadlineExceededError, CallerGoneError])
def test_work_that_becomes_hopeless_while_it_is_parked_is_not_encoded(
    crew_of: Callable[[int], Crew], reason: type[Exception], position: int
) -> None:
    crew = crew_of(1)
    walks = [crew.walk(10 if i == position and reason is DeadlineExceededError else 1000) for i in range(3)]

    def leave() -> None:
        crew.clock.advance_ms(11)
        walks[position].caller.gone = reason is CallerGoneError

    graph = FakeGraph(rows=4, hook=leave)
    gate = crew.hold()
    futures = [crew.submit(ask(graph, query(i, 5 if i else 4)), walk=walk) for i, walk in enumerate(walks)]
    gate.open.set()
    assert isinstance(error(futures[position]), reason)
    np.testing.assert_array_equal(result(futures[3 - position]), vector_of(query(3 - position, 5)))
    assert graph.calls == [[0], [3 - position]]


# -- waiting and closing


class Waiting:
    """What a job waits for; ``there`` answers that it need not."""

    def __init__(self, there: bool = False) -> None:
        self.there = there
        self.joined = threading.Event()
        self.resume: Callable[[], None] | None = None

    def join(self, resume: Callable[[], None]) -> bool:
        if self.there:
            return False
        self.resume = resume
        self.joined.set()
        return True

    def steps(self) -> Steps[str]:
        yield Wait(self.join)
        return "went on"

    def call_back(self) -> None:
        assert self.joined.wait(WAIT_SECONDS)
        assert self.resume is not None
        self.resume()


def test_who_waits_holds_no_thread_and_goes_on_when_called(crew_of: Callable[[int], Crew]) -> None:
    crew, waiting = crew_of(1), Waiting()
    future = crew.submit(waiting.steps())
    assert result(crew.submit(work(lambda: 7))) == 7
    assert not future.done()
    waiting.call_back()
    assert result(future) == "went on"
    assert result(crew.submit(Waiting(there=True).steps())) == "went on"


def test_what_a_search_waits_for_may_come_up_while_company_is_sought(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(1), FakeGraph(rows=4)
    for waiting in (Waiting(), Waiting(there=True)):
        gate = crew.hold()
        first = crew.submit(ask(graph, query(1, 4)))
        second = crew.submit(waiting.steps())
        gate.open.set()
        result(first)
        if not waiting.there:
            waiting.call_back()
        assert result(second) == "went on"


def test_closing_ends_whatever_waits_and_lets_what_is_in_hand_finish(crew_of: Callable[[int], Crew]) -> None:
    crew = crew_of(1)
    encoding, begun, never = crew.gate(), Waiting(), Waiting()
    graph = FakeGraph(rows=4, hook=encoding)
    gate = crew.hold()
    in_hand = crew.submit(ask(graph, query(1, 4)))
    parked = crew.submit(ask(graph, query(2, 5)))
    waits = [crew.submit(begun.steps()), crew.submit(never.steps())]
    gate.open.set()
    encoding.until_reached()
    begun.call_back()  # and no thread is free
    fresh = [crew.submit(work(lambda: 7), lane) for lane in Lane]
    assert crew.workers.waiting() == 1 + 1 + len(fresh)
    crew.workers.close()
    assert crew.workers.waiting() == 0
    for future in (parked, waits[0], *fresh):
        assert isinstance(error(future), DrainingError)
    assert not waits[1].done()
    never.call_back()
    assert isinstance(error(waits[1]), DrainingError)
    assert not in_hand.done()
    encoding.open.set()
    np.testing.assert_array_equal(result(in_hand), vector_of(query(1, 4)))


def test_what_comes_after_closing_ends_without_being_begun(crew_of: Callable[[int], Crew]) -> None:
    crew, begun = crew_of(1), threading.Event()
    crew.close()
    with pytest.raises(DrainingError, match="shutting down"):
        result(crew.submit(work(begun.set)))
    assert not begun.is_set()


def test_a_batch_in_hand_when_the_service_closes_is_not_put_back(crew_of: Callable[[int], Crew]) -> None:
    crew = crew_of(1)
    gate = crew.gate()

    def batch() -> Steps[str]:
        gate()
        yield Pause()
        return "whole"

    future = crew.submit(batch(), Lane.BATCH)
    gate.until_reached()
    other = crew.submit(work(lambda: 7))
    crew.workers.close()
    gate.open.set()
    assert isinstance(error(other), DrainingError)
    assert result(future) == "whole"
