"""The threads that do the work: shares of the lanes, company at the graph, dropped work, and an end for every job."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from crew import WAIT_SECONDS, Crew, FakeGraph, Gate, ask, crews, error, query, result, vector_of, work

from service.admission import Lane
from service.errors import CallerGoneError, DeadlineExceededError, DrainingError
from service.steps import Encode, Pause, Ready, Steps, Vectors, Wait
from service.workers import WEIGHTS


@pytest.fixture
def crew_of() -> Iterator[Callable[[int], Crew]]:
    with crews() as make:
        yield make


# -- lanes


def costing(crew: Crew, lane: Lane, cost_ms: float, served: list[tuple[Lane, float]]) -> Future[Any]:
    def spend() -> None:
        crew.clock.advance_ms(cost_ms)
        served.append((lane, cost_ms))

    return crew.submit(work(spend), lane, crew.walk(budget_ms=1e9))


@pytest.mark.parametrize("seed", range(3))
def test_lanes_share_time_by_weight_whatever_their_requests_cost(crew_of: Callable[[int], Crew], seed: int) -> None:
    random_ = random.Random(seed)
    crew, served = crew_of(1), []
    gate = crew.hold()
    scale = {Lane.SEARCH: 1.0, Lane.EMBED: 3.0, Lane.BATCH: 20.0}
    costs = {lane: [random_.uniform(0.5, 1.5) * scale[lane] for _ in range(60)] for lane in Lane}
    futures = [costing(crew, lane, cost, served) for lane in Lane for cost in costs[lane]]
    gate.open.set()
    for future in futures:
        result(future)
    spent, left = dict.fromkeys(Lane, 0.0), dict.fromkeys(Lane, 60)
    bound = max(max(each) / WEIGHTS[lane] for lane, each in costs.items())
    while all(left.values()):  # from when one lane is empty the others have its share
        lane, cost = served.pop(0)
        spent[lane] += cost / WEIGHTS[lane]
        left[lane] -= 1
        assert max(spent.values()) - min(spent.values()) <= bound + 1e-9
    assert min(spent.values()) > 0


def test_a_lane_that_was_away_does_not_make_up_for_it(crew_of: Callable[[int], Crew]) -> None:
    crew, served = crew_of(1), []
    for future in [costing(crew, Lane.SEARCH, 10, served) for _ in range(20)]:
        result(future)
    gate = crew.hold()
    served.clear()
    futures = [costing(crew, lane, 1, served) for lane in (Lane.BATCH, Lane.SEARCH) for _ in range(40)]
    gate.open.set()
    for future in futures:
        result(future)
    assert Counter(lane for lane, _ in served[:10])[Lane.SEARCH] >= 7


def test_a_batch_lets_others_go_first_between_its_parts(crew_of: Callable[[int], Crew]) -> None:
    crew, order = crew_of(1), []

    def come() -> None:
        later.append(crew.submit(work(lambda: order.append("search"))))
        later.append(crew.submit(parts(crew, "b", order), Lane.BATCH))

    later: list[Future[Any]] = []
    result(crew.submit(parts(crew, "a", order, come), Lane.BATCH))
    for future in later:
        result(future)
    assert order == ["a0", "search", "a1", "a2", "b0", "b1", "b2"]


def parts(crew: Crew, name: str, order: list[str], between: Callable[[], object] = lambda: None) -> Steps[None]:
    """A batch of three parts, which does ``between`` after its first."""
    for part in range(3):
        order.append(f"{name}{part}")
        crew.clock.advance_ms(1)
        if part == 0:
            between()
        yield Pause()


@pytest.mark.parametrize("lane", [Lane.BATCH, Lane.EMBED])
def test_of_equal_size_the_first_is_answered_before_the_next_is_begun(crew_of: Callable[[int], Crew], lane: Lane) -> None:
    crew, order = crew_of(1), []
    gate = crew.hold()
    futures = [crew.submit(parts(crew, name, order), lane, queries=256) for name in "abc"]
    gate.open.set()
    for future in futures:
        result(future)
    assert order == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]


@pytest.mark.parametrize(("late_ms", "first"), [(100, "small"), (2000, "large")])
def test_a_small_batch_goes_before_a_large_one_that_has_just_come(
    crew_of: Callable[[int], Crew], late_ms: float, first: str
) -> None:
    crew, order, later = crew_of(1), [], []

    def come() -> None:
        crew.clock.advance_ms(late_ms)
        later.append(crew.submit(parts(crew, "small", order), Lane.BATCH, crew.walk(budget_ms=5000), queries=8))

    result(crew.submit(parts(crew, "large", order, come), Lane.BATCH, crew.walk(budget_ms=5000), queries=256))
    result(later[0])
    assert order[0] == "large0"
    assert order[1:4] == (["small0", "small1", "small2"] if first == "small" else ["large1", "large2", "small0"])


def test_single_queries_go_in_the_order_in_which_they_came(crew_of: Callable[[int], Crew]) -> None:
    crew, order = crew_of(1), []
    gate = crew.hold()
    budgets = [1000, 50, 200, 50]
    futures = [crew.submit(work(lambda i=i: order.append(i)), walk=crew.walk(budget)) for i, budget in enumerate(budgets)]
    gate.open.set()
    for future in futures:
        result(future)
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("lane", [Lane.BATCH, Lane.EMBED])
def test_long_work_cannot_take_the_last_thread(crew_of: Callable[[int], Crew], lane: Lane) -> None:
    crew, third = crew_of(3), threading.Event()
    gates = [crew.hold(lane), crew.hold(lane)]
    waiting = crew.submit(work(third.set), lane)
    for answer in range(3):
        assert result(crew.submit(work(lambda answer=answer: answer))) == answer
    assert not third.is_set()
    gates[0].open.set()
    result(waiting)


@pytest.mark.parametrize("lane", list(Lane))
def test_one_thread_serves_every_lane(crew_of: Callable[[int], Crew], lane: Lane) -> None:
    assert result(crew_of(1).submit(work(lambda: 7), lane)) == 7


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


def test_company_is_looked_for_among_so_many_and_not_beyond_the_deadline(crew_of: Callable[[int], Crew]) -> None:
    crew, graph, looked_at = crew_of(1), FakeGraph(rows=4), []

    def slow(number: int) -> Steps[None]:
        looked_at.append(number)
        crew.clock.advance_ms(1)
        yield Ready()

    def joins() -> Steps[Vectors | None]:
        crew.clock.advance_ms(1)
        return (yield Encode(graph, query(2, 4)))

    gate = crew.hold()
    walk = crew.walk(10)
    first = crew.submit(ask(graph, query(1, 4)), walk=walk)
    second = crew.submit(joins())
    others = [crew.submit(slow(number)) for number in range(30)]
    graph.hook = lambda: looked_at.append(-1)
    gate.open.set()
    assert isinstance(error(first), DeadlineExceededError)
    assert walk.spent_ms["queue"] == pytest.approx(16)
    assert "encode" not in walk.spent_ms
    np.testing.assert_array_equal(result(second), vector_of(query(2, 4)))
    for future in others:
        result(future)
    assert looked_at[:15] == list(range(15))
    assert graph.calls == [[2]]


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
