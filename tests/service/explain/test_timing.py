"""Every millisecond of a query, on a clock that only its stages move, and on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock
from serving import hooked, slow

from service.errors import DeadlineExceededError, InvalidRequestError
from service.explain.timing import STAGES, ObservedPlanner, time_search
from service.generation import Generation, GenerationOptions, open_generation
from service.plan import Asked, SearchPlan
from service.stages import Search

COSTS_MS = {"tokenize": 1.0, "encode": 2.0, "filter": 3.0, "search": 4.0, "fetch": 5.0}


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    opened = open_generation(make_snapshot(tmp_path_factory.mktemp("registry"), kind="hnsw"), GenerationOptions(), lambda _: None)
    yield opened
    opened.close()


def test_each_stage_has_its_own_time_and_together_they_are_all(generation: Generation) -> None:
    clock = ManualClock()
    search = Search("apple bread", filter={"kind": "tool"})
    timings, result = time_search(hooked(generation, slow(clock, COSTS_MS)), search, None, 1000.0, clock)
    assert {name: timings.stages_ms[name] for name in COSTS_MS} == pytest.approx(COSTS_MS)
    assert list(timings.stages_ms) == list(STAGES)
    assert (timings.total_ms, timings.other_ms) == (pytest.approx(15.0), pytest.approx(0.0))
    assert len(result.hits) == 10


def test_planning_is_told_apart_from_searching(generation: Generation) -> None:
    clock = ManualClock()

    class Slow(ObservedPlanner):
        def plan(self, remaining_ms: float, asked: Asked) -> SearchPlan | None:
            clock.advance_ms(7.0)
            return self._inner.plan(remaining_ms, asked)

    planner = Slow(generation.planner, None, None, clock)
    slowed = replace(hooked(generation, slow(clock, COSTS_MS)), planner=planner)
    timings, _ = time_search(slowed, Search("apple"), None, 1000.0, clock)
    assert (timings.stages_ms["plan"], timings.stages_ms["search"]) == (pytest.approx(7.0), pytest.approx(4.0))
    assert timings.stages_ms["filter"] == 0.0


def test_on_a_real_clock_the_parts_add_up_to_the_whole(generation: Generation) -> None:
    timings, _ = time_search(generation, Search("apple bread"), None, 10_000.0)
    assert sum(timings.stages_ms.values()) + timings.other_ms == pytest.approx(timings.total_ms)
    assert all(ms >= 0 for ms in timings.stages_ms.values())
    assert timings.total_ms > 0
    assert timings.other_ms >= -1e-6


def test_an_effort_that_is_asked_for_is_used_and_a_budget_lowers_it(generation: Generation) -> None:
    _, result = time_search(generation, Search("apple"), 16, 10_000.0)
    assert (result.plan.effort, result.plan.causes) == (16, ())
    table = generation.manifest.index
    slow_rows = tuple(row.model_copy(update={"p99_ms": 500.0 if row.effort == 64 else 0.0}) for row in table.efforts)
    index = table.model_copy(update={"efforts": slow_rows})
    clock = ManualClock()
    planner = type(generation.planner)(index, generation.costs, clock)
    _, result = time_search(replace(generation, planner=planner), Search("apple"), 64, 100.0, clock)
    assert (result.plan.effort, result.plan.causes) == (16, ("deadline_effort",))


def test_a_budget_that_reaches_nowhere_and_a_filter_that_makes_no_sense(generation: Generation) -> None:
    clock = ManualClock()
    with pytest.raises(DeadlineExceededError, match="the budget of 3 ms does not reach"):
        time_search(hooked(generation, slow(clock, COSTS_MS)), Search("apple"), None, 3.0, clock)
    with pytest.raises(InvalidRequestError, match="colour"):
        time_search(generation, Search("apple", filter={"colour": "red"}), None, 1000.0)
