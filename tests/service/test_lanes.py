"""Lanes: shares of the threads' time, and turns within a lane."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from crew import Crew, crews, result, work

from service.admission import Lane
from service.steps import Pause, Steps, Wait
from service.workers import WEIGHTS


@pytest.fixture
def crew_of() -> Iterator[Callable[[int], Crew]]:
    with crews() as make:
        yield make


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


def test_a_query_whose_vector_has_come_goes_before_the_next_part_of_a_batch(crew_of: Callable[[int], Crew]) -> None:
    """It waited for a text that the batch was encoding, and nobody else waits for a thread."""
    crew, order, waiting = crew_of(1), list[str](), list[Callable[[], None]]()

    def join(resume: Callable[[], None]) -> bool:
        waiting.append(resume)
        return True

    def single() -> Steps[None]:
        yield Wait(join)
        order.append("search")

    gate = crew.hold()
    search, batch = crew.submit(single()), crew.submit(parts(crew, "a", order, lambda: waiting.pop()()), Lane.BATCH)
    gate.open.set()
    result(search)
    result(batch)
    assert order == ["a0", "search", "a1", "a2"]


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
