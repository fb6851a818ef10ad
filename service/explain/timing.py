"""One query through the stages of a request, as a worker thread would take it, with a stopwatch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TypeVar

from service.api.call import Call
from service.api.render import search_answer
from service.cache import VectorCache
from service.deadline import Clock, Deadline
from service.generation import Generation
from service.pipeline import Answer
from service.plan import Asked, Planner, SearchPlan
from service.stages import Result, Search, Stages, Target
from service.steps import Encode, Steps
from service.walk import Caller, Walk

T = TypeVar("T")
STAGES = ("tokenize", "encode", "plan", "filter", "search", "fetch", "render")
_WARM, _ROUNDS = 3, 9


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of one run: the one whose total is the median of ``rounds``.

    Attributes:
        stages_ms: by stage; those that were not gone through are 0.
        other_ms: between the stages.
        total_ms: from the begin to the rendered answer; the sum of all the others.
    """

    stages_ms: dict[str, float]
    other_ms: float
    total_ms: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what it took and what it gave."""

    stages_ms: dict[str, float]
    total_ms: float
    result: Result


class ObservedPlanner(Planner):
    """Plans as the one inside, at a chosen effort where one is asked for and the budget allows it; times itself."""

    def __init__(self, inner: Planner, effort: int | None, recall: float | None, clock: Clock) -> None:
        """``effort`` and its expected ``recall`` are None for what ``inner`` chooses."""
        self._inner = inner
        self._effort = effort
        self._recall = recall
        self._time = clock
        self.spent_ms = 0.0

    def plan(self, remaining_ms: float, asked: Asked) -> SearchPlan | None:
        began = self._time()
        plan = self._inner.plan(remaining_ms, asked)
        if plan is not None and self._effort is not None and self._recall is not None:
            lowered = "deadline_effort" in plan.causes and plan.effort < self._effort
            plan = plan if lowered else replace(plan, effort=self._effort, expected_recall=self._recall)
        self.spent_ms = (self._time() - began) * 1000.0
        return plan

    def least(self, asked: Asked) -> SearchPlan:
        return self._inner.least(asked)

    def is_to_learn(self) -> bool:
        return self._inner.is_to_learn()

    def worth(self, remaining_ms: float, asked: Asked, tokens: int) -> bool:
        return self._inner.worth(remaining_ms, asked, tokens)


def time_search(
    generation: Generation, search: Search, effort: int | None, budget_ms: float, clock: Clock = time.perf_counter
) -> tuple[Timings, Result]:
    """Run a search several times, each on its own budget, and give the median run; no vector is remembered between them.

    Raises:
        InvalidRequestError: filter or fields name what the snapshot does not have.
        DeadlineExceededError: the budget does not reach the end.
    """
    rows = {row.effort: row.recall_at_10 for row in generation.manifest.index.efforts}
    recall = None if effort is None else rows.get(effort, 0.0)
    planner = ObservedPlanner(generation.planner, effort, recall, clock)
    observed = replace(generation, planner=planner)
    for _ in range(_WARM):
        _run(observed, planner, search, budget_ms, clock)
    runs = [_run(observed, planner, search, budget_ms, clock) for _ in range(_ROUNDS)]
    run = sorted(runs, key=lambda each: each.total_ms)[len(runs) // 2]
    other = run.total_ms - sum(run.stages_ms.values())
    return Timings(run.stages_ms, other, run.total_ms, _ROUNDS), run.result


def _run(generation: Generation, planner: ObservedPlanner, search: Search, budget_ms: float, clock: Clock) -> Run:
    began = clock()
    walk = Walk(Deadline.after(budget_ms, began, clock), Caller())
    result = _finish(Stages(generation, walk, VectorCache(0), Target()).search(search), walk)
    walk.enter("render")
    search_answer(Call({"headers": []}, clock), Answer([result], generation.id, walk.timings_ms()))
    walk.pass_to("reply")
    spent = {str(stage): ms for stage, ms in walk.spent_ms.items()}
    stages = {name: spent.get(name, 0.0) for name in STAGES}
    stages["plan"] = planner.spent_ms
    stages["search"] -= planner.spent_ms  # it plans within that stage
    return Run(stages, (clock() - began) * 1000.0, result)


def _finish(steps: Steps[T], walk: Walk) -> T:
    """Do what the steps ask for, as a worker that has nothing else to do; nobody else asks for the same vector."""
    sent = None
    while True:
        try:
            step = steps.send(sent)
        except StopIteration as ended:
            value: T = ended.value
            return value
        sent = None
        if isinstance(step, Encode):
            walk.enter("encode")
            sent = step.graph.embed([step.ids])
