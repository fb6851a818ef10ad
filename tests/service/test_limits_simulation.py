"""The door and its limit against a whole service, on a manual clock: overload, steps, a freeze, batches in between."""

import functools
import math

import numpy as np
import pytest
from simulate import Arrivals, Ran, Simulation, World, capacity, run

from service.admission import Lane
from service.limits import FixedLimit, GradientLimit, Limit, Outcome

MOST = 64
SETTLED = 1.0
"""Seconds after which the first impressions are over."""


def loaded(load: float, service_ms: float, workers: int = 2, seconds: float = 4.0) -> World:
    """Searches alone, at a multiple of what the workers can do."""
    idle = World((), lambda _: service_ms, workers=workers)
    return World((Arrivals(load * capacity(idle)),), lambda _: service_ms, seconds, workers)


def adaptive(workers: int = 2) -> GradientLimit:
    return GradientLimit(workers, MOST)


@functools.cache
def overloaded(service_ms: float, workers: int, seconds: float) -> tuple[World, Ran]:
    world = loaded(3.0, service_ms, workers, seconds)
    return world, run(world, adaptive(workers))


OVERLOADS = pytest.mark.parametrize(
    ("service_ms", "workers", "seconds"), [(1.4, 2, 2.5), (5.0, 2, 4.0), (20.0, 2, 12.0), (20.0, 8, 4.0)]
)


@OVERLOADS
def test_threefold_overload_keeps_nine_tenths_of_the_best_fixed_limits_goodput(
    service_ms: float, workers: int, seconds: float
) -> None:
    world, ran = overloaded(service_ms, workers, seconds)
    fixed = [run(world, FixedLimit(number)) for number in (workers + 1, 4 * workers, MOST)]
    assert ran.goodput(SETTLED, seconds) >= 0.9 * max(other.goodput(SETTLED, seconds) for other in fixed)
    assert ran.goodput(SETTLED, seconds) >= 0.85 * capacity(world)


@OVERLOADS
def test_threefold_overload_leaves_those_let_in_within_their_budget(service_ms: float, workers: int, seconds: float) -> None:
    """Where a budget is 2.5 times what service takes there is no room for a queue: the door lets in what is likely in time."""
    _, ran = overloaded(service_ms, workers, seconds)
    assert ran.kept(SETTLED, seconds) >= (0.999 if service_ms < 20 else 0.9)
    assert ran.latency_ms(90 if service_ms == 20 else 99, SETTLED, seconds) <= 50.0


@pytest.mark.parametrize(("load", "admitted"), [(0.5, 1.0), (0.7, 0.999), (0.9, 0.98)])
def test_bursts_below_capacity_are_let_in(load: float, admitted: float) -> None:
    ran = run(loaded(load, 5.0, seconds=10.0), adaptive())
    assert ran.admitted(0.0, 10.0) >= admitted
    assert ran.kept(0.0, 10.0) >= 0.99


def test_at_capacity_nearly_all_of_it_is_used() -> None:
    world = loaded(1.0, 5.0, seconds=10.0)
    assert run(world, adaptive()).goodput(0.0, 10.0) >= 0.93 * capacity(world)


def test_a_service_that_is_hardly_used_keeps_the_limit_where_it_was() -> None:
    ran = run(loaded(0.3, 5.0, seconds=20.0), adaptive())
    assert set(ran.limit(0.0, 20.0)) == {adaptive().value}


def test_service_that_takes_ten_times_as_long_is_followed_within_two_seconds_and_back() -> None:
    def service_ms(now: float) -> float:
        return 20.0 if 2.0 <= now < 7.0 else 2.0

    quick = World((), service_ms)
    ran = run(World((Arrivals(0.7 * capacity(quick)),), service_ms, seconds=10.0), adaptive())
    assert ran.goodput(4.0, 7.0) >= 0.85 * capacity(quick, at=5.0)
    assert ran.kept(4.0, 7.0) >= 0.9
    assert ran.admitted(8.0, 10.0) >= 0.999
    assert ran.kept(8.0, 10.0) >= 0.999


def test_a_stop_of_two_seconds_is_over_when_it_is_over() -> None:
    world = loaded(0.7, 5.0, seconds=8.0)
    world = World(world.traffic, world.service_ms, world.seconds, freeze=(3.0, 5.0))
    ran = run(world, adaptive())
    assert ran.admitted(5.5, 8.0) >= 0.995
    assert ran.kept(5.5, 8.0) >= 0.995
    assert min(ran.limit(5.0, 8.0)) >= 8


def test_batches_of_a_thousand_do_not_starve_searches() -> None:
    alone = loaded(0.5, 5.0, seconds=8.0)
    flood = Arrivals(5.0, Lane.BATCH, items=1000, budget_ms=60_000.0)
    simulation = Simulation(World((*alone.traffic, flood), alone.service_ms, 8.0), adaptive())
    ran = simulation.run()
    assert ran.admitted(SETTLED, 8.0) >= 0.99
    assert ran.kept(SETTLED, 8.0) >= 0.99
    assert ran.latency_ms(99, SETTLED, 8.0) <= min(50.0, 2.5 * run(alone, adaptive()).latency_ms(99, SETTLED, 8.0))
    assert simulation.items_done(Lane.BATCH) >= 2000


@pytest.mark.parametrize(("lane", "items"), [(Lane.EMBED, 1), (Lane.BATCH, 1), (Lane.BATCH, 10)])
def test_an_overload_by_searches_is_over_for_the_other_lanes_too(lane: Lane, items: int) -> None:
    """What comes after it in bursts of one lane alone, at half of what the threads can do, is let in again."""
    idle = World((), lambda _: 2.0)
    rate = 0.5 * capacity(idle) / items
    traffic = (Arrivals(3.0 * capacity(idle), end=2.0), Arrivals(rate, lane, items, budget_ms=1000.0, begin=3.0))
    ran = run(World(traffic, idle.service_ms, seconds=20.0), adaptive())
    assert max(ran.limit(1.0, 2.0)) < MOST // 2
    after = ran.of(3.0 + 500 / rate, 20.0, lane)
    assert len(after) > 300
    assert np.mean([each.in_budget for each in after]) >= 0.99


@pytest.mark.parametrize("load", [0.7, 3.0])
@pytest.mark.parametrize("flood", [Arrivals(1200.0, Lane.EMBED), Arrivals(50.0, Lane.BATCH, items=100, budget_ms=300.0)])
def test_a_flood_of_another_lane_takes_its_weight_and_no_more(load: float, flood: Arrivals) -> None:
    """Its batches cannot be in time: they are let in where a thread is free, and ended by their deadline."""
    alone = loaded(load, 5.0, seconds=6.0)
    ran = run(World((*alone.traffic, flood), alone.service_ms, 6.0), adaptive())
    assert ran.kept(SETTLED, 6.0) >= 0.998
    assert ran.latency_ms(99, SETTLED, 6.0) <= 50.0
    assert ran.goodput(SETTLED, 6.0) >= 0.78 * min(load, 1.0) * capacity(alone)


def test_searches_do_not_keep_batches_out() -> None:
    alone = loaded(3.0, 5.0, seconds=4.0)
    small = Arrivals(2.0, Lane.BATCH, items=10, budget_ms=5_000.0)
    ran = run(World((*alone.traffic, small), alone.service_ms, 4.0), adaptive())
    batches = ran.of(SETTLED, 4.0, Lane.BATCH)
    assert batches
    assert all(batch.in_budget for batch in batches)


class Gradient2(Limit):
    """As published: against a long average of round trips. Why it is not used: see the test."""

    def __init__(self, workers: int) -> None:
        self._limit, self._least, self._long_ms = 8.0 * workers, workers + 1, 0.0

    @property
    def value(self) -> int:
        return int(self._limit)

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        round_trip_ms = service_ms + queue_ms
        self._long_ms += (round_trip_ms - self._long_ms) * (2 / 601 if self._long_ms else 1.0)
        if in_flight >= self._limit / 2:
            gradient = max(0.5, min(1.0, 1.5 * self._long_ms / round_trip_ms))
            self._limit = max(self._least, min(MOST, 0.8 * self._limit + 0.2 * (self._limit * gradient + 4)))


class Aimd(Limit):
    """Ten percent less where the wait is half the budget, one more where the limit is used."""

    def __init__(self, workers: int) -> None:
        self._limit, self._least = 8.0 * workers, workers + 1

    @property
    def value(self) -> int:
        return int(self._limit)

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        if queue_ms > 25.0:
            self._limit = max(self._least, 0.9 * self._limit)
        elif in_flight >= self._limit / 2:
            self._limit = min(MOST, self._limit + 1)


@pytest.mark.parametrize("other", [Gradient2, Aimd])
def test_other_algorithms_answer_later_under_overload(other: type[Gradient2 | Aimd]) -> None:
    world, ours = overloaded(5.0, 2, 4.0)
    theirs = run(world, other(2))
    assert theirs.latency_ms(99, SETTLED, 4.0) > 1.2 * ours.latency_ms(99, SETTLED, 4.0)
    assert theirs.goodput(SETTLED, 4.0) <= ours.goodput(SETTLED, 4.0)


def test_a_simulation_is_the_same_every_time() -> None:
    first, second = (run(loaded(1.0, 5.0, seconds=1.0), adaptive()) for _ in range(2))
    assert first.limits == second.limits
    assert math.isclose(first.goodput(0, 1), second.goodput(0, 1))
