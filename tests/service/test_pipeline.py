"""The walk of a request: dropped when late or unwanted, counted, and its thread held to account."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from manual_clock import ManualClock
from serving import composed, hooked, make_registry, slow

from service.costs import Costs, Load, Remembered, search_key
from service.deadline import Deadline
from service.errors import (
    CallerGoneError,
    DeadlineExceededError,
    DrainingError,
    InvalidRequestError,
    NoGenerationError,
    OverloadedError,
)
from service.parts import Parts
from service.pipeline import Answer
from service.plan import Planner
from service.stages import Result, Search
from service.walk import STAGES, Caller, Walk

WAIT_SECONDS = 10


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def parts(registry: Path, clock: ManualClock) -> Iterator[Parts]:
    with composed(registry, clock, threads=1, max_concurrency=2) as composed_parts:
        yield composed_parts


def hook_into(parts: Parts, hook: Callable[[str], None]) -> None:
    generation = parts.generations.current
    assert generation is not None
    parts.generations._slot.generation = hooked(generation, hook)


def search(
    parts: Parts, budget_ms: float = 100, caller: Caller | None = None, elsewhere: bool = False, **options: Any
) -> Coroutine[Any, Any, Answer]:
    walk = Walk(Deadline.after(budget_ms, parts.clock(), parts.clock), caller or Caller(), elsewhere)
    options.setdefault("filter", {"number": {"$gte": 0}})
    return answered(parts, parts.pipeline.search(Search("apple", **options), walk, lambda answer: answer), walk)


async def answered(parts: Parts, answer: Coroutine[Any, Any, Answer], walk: Walk) -> Answer:
    """As the routes do it: accounted for once the answer is out."""
    try:
        return await answer
    finally:
        walk.stop()
        parts.pipeline.account(walk)


def sample(parts: Parts, name: str, **labels: str) -> float:
    value = parts.metrics.registry.get_sample_value(f"scalingnote_{name}", labels)
    assert value is not None
    return value


def test_an_answer_names_its_snapshot_and_where_the_time_went(parts: Parts, clock: ManualClock) -> None:
    hook_into(parts, slow(clock, {"tokenize": 1, "encode": 2, "filter": 3, "search": 4, "fetch": 5}))
    answer = asyncio.run(search(parts))
    assert answer.snapshot == parts.generations.serving
    assert answer.timings_ms == {
        "queue": 0.0, "tokenize": 1.0, "encode": 2.0, "filter": 3.0, "search": 4.0, "fetch": 5.0, "total": 15.0,
    }  # fmt: skip
    assert sample(parts, "stage_seconds_sum", stage="search") == pytest.approx(0.004)
    assert sample(parts, "stage_seconds_count", stage="render") == 1


@pytest.mark.parametrize(
    ("costly", "not_begun"),
    [("tokenize", "encode"), ("encode", "filter"), ("filter", "filter"), ("search", "fetch"), ("fetch", "render")],
)
def test_a_spent_budget_stops_before_the_next_stage(parts: Parts, clock: ManualClock, costly: str, not_begun: str) -> None:
    begun: list[str] = []

    def hook(stage: str) -> None:
        begun.append(stage)
        clock.advance_ms(500 if stage == costly else 0)

    hook_into(parts, hook)
    with pytest.raises(DeadlineExceededError) as caught:
        asyncio.run(search(parts, budget_ms=100))
    assert caught.value.stage == not_begun
    assert caught.value.spent_ms is not None
    assert caught.value.spent_ms[costly] == 500.0
    assert begun[-1] == costly
    assert sample(parts, "dropped_total", cause="late", stage=not_begun) == 1


def test_a_budget_spent_in_the_queue_costs_no_work(parts: Parts, clock: ManualClock) -> None:
    begun: list[str] = []
    hook_into(parts, begun.append)

    deadline = Deadline.after(100, clock(), clock)
    clock.advance_ms(101)
    with pytest.raises(DeadlineExceededError) as caught:
        asyncio.run(parts.pipeline.search(Search("apple"), Walk(deadline, Caller()), lambda answer: answer))
    assert begun == []
    assert caught.value.spent_ms == {"queue": 101.0, "total": 101.0}
    assert sample(parts, "dropped_total", cause="late", stage="tokenize") == 1


@pytest.mark.parametrize(("last", "not_begun"), [("encode", "filter"), ("search", "fetch")])
def test_work_for_a_caller_who_is_gone_is_dropped(parts: Parts, last: str, not_begun: str) -> None:
    caller = Caller()
    begun: list[str] = []

    def hook(stage: str) -> None:
        begun.append(stage)
        caller.gone = stage == last

    hook_into(parts, hook)
    with pytest.raises(CallerGoneError):
        asyncio.run(search(parts, caller=caller))
    assert begun[-1] == last
    assert sample(parts, "dropped_total", cause="gone", stage=not_begun) == 1


def test_what_was_given_up_is_counted(parts: Parts, clock: ManualClock) -> None:
    hook_into(parts, slow(clock, {"encode": 9.3}))
    answer = asyncio.run(search(parts, budget_ms=10))
    assert answer.results[0].plan.causes == ("deadline_effort", "deadline_fields")
    assert sample(parts, "degraded_total", cause="deadline_effort") == 1
    assert sample(parts, "degraded_total", cause="deadline_fields") == 1


class Gate:
    """A hook that holds a worker thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, stage: str) -> None:
        if stage == "encode":
            self.reached.set()
            assert self.open.wait(WAIT_SECONDS)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, WAIT_SECONDS)


def test_beyond_the_limit_requests_are_refused_at_once(parts: Parts) -> None:
    gate = Gate()
    hook_into(parts, gate)

    async def overload() -> list[Answer]:
        working, waiting = asyncio.create_task(search(parts)), asyncio.create_task(search(parts))
        await until(gate.reached)
        with pytest.raises(OverloadedError) as caught:
            await search(parts)
        assert caught.value.retry_after_ms is not None
        assert caught.value.retry_after_ms > 0
        assert parts.limiter.in_flight == 2
        gate.open.set()
        return [await working, await waiting]

    assert len(asyncio.run(overload())) == 2
    assert parts.limiter.in_flight == 0
    assert sample(parts, "shed_total", cause="overloaded") == 1


def test_a_cancelled_request_keeps_its_token_until_its_thread_is_free(parts: Parts) -> None:
    gate = Gate()
    hook_into(parts, gate)

    async def cancel() -> None:
        task = asyncio.create_task(search(parts))
        await until(gate.reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert parts.limiter.in_flight == 1
        gate.open.set()
        await search(parts)  # the one thread is free again

    asyncio.run(cancel())
    assert parts.limiter.in_flight == 0
    assert sample(parts, "dropped_total", cause="gone", stage="filter") == 1


def believed_slow(parts: Parts, clock: ManualClock) -> tuple[Costs, str]:
    """The service's costs on the clock of the test, and the key of a search that was seen to take 200 ms, six seconds ago."""
    served = parts.generations.current
    assert served is not None
    costs = Costs(served.manifest.index, clock)
    planner = Planner(served.manifest.index, costs, clock, Remembered(costs))
    parts.generations._slot.generation = replace(served, costs=costs, planner=planner)
    key = search_key(served.manifest.index.efforts[0].effort, "narrow")
    for row in served.manifest.index.efforts:
        for _ in range(9):
            costs.observe("search", search_key(row.effort, "narrow"), 200.0, Load.QUIET)
    clock.advance_ms(6_100)  # forgotten, except for those who can be sent elsewhere
    return costs, key


def test_who_is_sent_elsewhere_is_told_at_once_and_what_it_costs_is_learned(parts: Parts, clock: ManualClock) -> None:
    gate, slowly = Gate(), slow(clock, {"search": 200})
    costs, key = believed_slow(parts, clock)
    hook_into(parts, lambda stage: (gate(stage), slowly(stage)))

    async def refused() -> None:
        with pytest.raises(DeadlineExceededError) as caught:
            await search(parts, elsewhere=True)
        assert caught.value.left_share > 0.9
        await until(gate.reached)
        assert parts.limiter.in_flight == 1
        assert costs.cost_ms("search", key, 0.5, Load.QUIET) is None
        gate.open.set()
        async with asyncio.timeout(WAIT_SECONDS):
            while parts.limiter.in_flight:  # noqa: ASYNC110 - what is waited for is a number
                await asyncio.sleep(0)

    asyncio.run(refused())
    assert costs.cost_ms("search", key, 0.5, Load.QUIET) == pytest.approx(200, rel=0.15)
    assert sum(sample(parts, "dropped_total", cause="late", stage=stage) for stage in STAGES) == 1


def test_a_batch_that_is_sent_elsewhere_is_not_worked_on(parts: Parts, clock: ManualClock) -> None:
    believed_slow(parts, clock)
    begun: list[str] = []
    hook_into(parts, begun.append)
    walk = Walk(Deadline.after(100, clock(), clock), Caller(), elsewhere=True)
    searches = [Search("apple", filter={"number": {"$gte": 0}})] * 3
    with pytest.raises(DeadlineExceededError):
        asyncio.run(answered(parts, parts.pipeline.search_batch(searches, walk, lambda answer: answer), walk))
    assert parts.limiter.in_flight == 0
    assert "search" not in begun


def test_the_event_loop_runs_on_while_a_stage_blocks(parts: Parts) -> None:
    gate = Gate()
    hook_into(parts, gate)

    async def block() -> int:
        task = asyncio.create_task(search(parts))
        await until(gate.reached)
        turns = 0
        for _ in range(100):
            await asyncio.sleep(0)
            turns += 1
        gate.open.set()
        await task
        return turns

    assert asyncio.run(block()) == 100


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_stage_that_outlasts_the_budget_is_seen_and_what_follows_is_late(parts: Parts, hangs_up: bool) -> None:
    gate = Gate()
    hook_into(parts, gate)
    caller = Caller()

    async def block() -> None:
        walk = Walk(Deadline.after(800, time.monotonic(), time.monotonic), caller)
        with pytest.raises(DeadlineExceededError, match="does not reach the end of encode"):
            await answered(parts, parts.pipeline.search(Search("apple"), walk, lambda answer: answer), walk)
        caller.gone = hangs_up  # with the 504 in hand
        gate.open.set()
        async with asyncio.timeout(WAIT_SECONDS):
            while parts.limiter.in_flight:  # noqa: ASYNC110 - what is waited for is a number
                await asyncio.sleep(0)

    asyncio.run(block())
    assert sample(parts, "stage_seconds_count", stage="encode") == 1
    assert sample(parts, "stage_seconds_sum", stage="encode") > 0.02
    assert sample(parts, "stage_budget_left_seconds_sum", stage="encode") == 0
    assert [
        cause for cause in ("late", "gone") if any(sample(parts, "dropped_total", cause=cause, stage=each) for each in STAGES)
    ] == ["late"]


def test_searches_of_a_batch_are_remembered_and_looked_at_as_single_ones_are(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    heard: list[tuple[Search, Result]] = []
    monkeypatch.setattr(parts.pipeline, "_note", noted.append)
    monkeypatch.setattr(parts.pipeline, "_hear", lambda search, result, generation: heard.append((search, result)))
    walk = Walk(Deadline.after(100, parts.clock(), parts.clock), Caller())
    searches = [Search("apple"), Search("drum", k=3)]
    answer = asyncio.run(answered(parts, parts.pipeline.search_batch(searches, walk, lambda answer: answer), walk))
    assert noted == ["apple", "drum"]
    assert heard == list(zip(searches, answer.results, strict=True))


def test_a_swap_in_mid_request_does_not_touch_it(parts: Parts, registry: Path, tmp_path: Path) -> None:
    gate = Gate()
    hook_into(parts, gate)
    before = parts.generations.serving
    make_registry(tmp_path, rows=50)

    async def swap() -> Answer:
        task = asyncio.create_task(search(parts, budget_ms=60_000))  # the other one is loaded meanwhile, on this loop
        await until(gate.reached)
        with composed(tmp_path) as other, other.generations.lease() as new:
            parts.generations.replace(new)
            gate.open.set()
            answer = await task
            assert parts.generations.serving != before
        return answer

    assert asyncio.run(swap()).snapshot == before


def test_without_a_snapshot_there_is_no_answer(tmp_path: Path) -> None:
    with composed(tmp_path / "empty", ManualClock()) as empty:
        with pytest.raises(NoGenerationError, match="/readyz"):
            asyncio.run(search(empty))
        assert empty.limiter.in_flight == 0


def test_a_draining_service_takes_no_new_work(parts: Parts) -> None:
    parts.limiter.drain()
    with pytest.raises(DrainingError):
        asyncio.run(search(parts))
    assert sample(parts, "shed_total", cause="draining") == 1


def test_the_width_that_is_asked_for_is_held_against_the_generation_that_encodes(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(dimensions: int) -> Coroutine[Any, Any, tuple[int, ...]]:
        deadline = Deadline.after(100, parts.clock(), parts.clock)
        walk = Walk(deadline, Caller())
        return parts.pipeline.embed(["apple"], walk, lambda embedded: embedded.encoded.vectors.shape, dimensions)

    monkeypatch.setattr(type(parts.generations), "current", None)  # what serves at the door may be another, or none
    assert asyncio.run(embed(16)) == (1, 16)
    with pytest.raises(InvalidRequestError, match="dimensions: 8; the vectors have 16"):
        asyncio.run(embed(8))


class Early(asyncio.SelectorEventLoop):
    """Timers that fire up to a millisecond before their time, as uvloop's do."""

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return super().call_later(max(0.0, delay - 0.001), callback, *args, context=context)


def test_nobody_is_given_up_before_the_budget_is_spent(parts: Parts) -> None:
    gate = Gate()
    hook_into(parts, gate)
    walks: list[Walk] = []

    async def block() -> None:
        walks.append(Walk(Deadline.after(30.4, time.monotonic(), time.monotonic), Caller()))
        with pytest.raises(DeadlineExceededError):
            await parts.pipeline.search(Search("apple"), walks[0], lambda answer: answer)
        assert walks[0].remaining_ms() <= 0
        assert walks[0].given_up
        gate.open.set()

    with asyncio.Runner(loop_factory=Early) as runner:
        runner.run(block())
