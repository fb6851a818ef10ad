"""The walk of one request: door, queue, stages, render. No HTTP here.

All CPU work of a request is one job on one worker thread, which holds its own lease of a generation: a request that is
cancelled may leave its thread inside the engine. The event loop only waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from service.admission import Limiter, Outcome, Token
from service.deadline import Deadline
from service.errors import (
    CallerGoneError,
    DeadlineExceededError,
    DrainingError,
    FieldError,
    InvalidRequestError,
    OverloadedError,
)
from service.generation import Generation
from service.metrics import Metrics
from service.stages import Encoded, Result, Search, Stages
from service.swap import Generations
from service.walk import Caller, Walk

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers to the searches of one request, in their order, all from one snapshot."""

    results: list[Result]
    snapshot: str
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of the queries of one request."""

    encoded: Encoded
    snapshot: str
    timings_ms: dict[str, float]


class Pipeline:
    """Runs requests. ``then`` renders the answer on the worker thread, so that a large one does not hold the event loop.

    Every method raises OverloadedError, DrainingError, NoGenerationError, DeadlineExceededError, CallerGoneError and,
    where only the snapshot shows that a request makes no sense, InvalidRequestError.
    """

    def __init__(self, generations: Generations, workers: Executor, limiter: Limiter, metrics: Metrics) -> None:
        self._generations = generations
        self._workers = workers
        self._limiter = limiter
        self._metrics = metrics

    async def search(self, search: Search, deadline: Deadline, caller: Caller, then: Callable[[Answer], T]) -> T:
        """Answer one search."""

        def work(generation: Generation, walk: Walk) -> T:
            return self._answer([Stages(generation, walk).search(search)], generation, walk, then)

        return await self._run(work, deadline, caller)

    async def search_batch(
        self, searches: Sequence[Search], deadline: Deadline, caller: Caller, then: Callable[[Answer], T]
    ) -> T:
        """Answer at least one search, in order; InvalidRequestError paths begin with the index of the search."""

        def work(generation: Generation, walk: Walk) -> T:
            return self._answer(Stages(generation, walk).search_many(searches), generation, walk, then)

        return await self._run(work, deadline, caller)

    async def embed(
        self,
        queries: Sequence[str],
        deadline: Deadline,
        caller: Caller,
        then: Callable[[Embedded], T],
        dimensions: int | None = None,
    ) -> T:
        """Encode at least one query by the query tower; InvalidRequestError unless that gives ``dimensions``, where asked."""

        def work(generation: Generation, walk: Walk) -> T:
            _check_dimensions(generation, dimensions)
            encoded = Stages(generation, walk).encode(queries)
            embedded = Embedded(encoded, generation.id, walk.timings_ms())
            with walk.stage("render"):
                return then(embedded)

        return await self._run(work, deadline, caller)

    def _answer(self, results: list[Result], generation: Generation, walk: Walk, then: Callable[[Answer], T]) -> T:
        answer = Answer(results, generation.id, walk.timings_ms())
        with walk.stage("render"):
            rendered = then(answer)
        for result in results:
            self._metrics.gave_up(result.causes)
        return rendered

    async def _run(self, work: Callable[[Generation, Walk], T], deadline: Deadline, caller: Caller) -> T:
        token = self._admit()
        walk = Walk(deadline, caller)
        job = asyncio.get_running_loop().run_in_executor(self._workers, self._work, work, walk)
        job.add_done_callback(lambda done: token.release(walk.service_ms(), _outcome(done)))
        try:
            return await asyncio.shield(job)  # the token is held until the thread is free, not until the waiter is
        except asyncio.CancelledError:
            caller.gone = True
            raise

    def _admit(self) -> Token:
        try:
            return self._limiter.acquire()
        except (OverloadedError, DrainingError) as error:
            self._metrics.shed.labels(error.code).inc()
            raise

    def _work(self, work: Callable[[Generation, Walk], R], walk: Walk) -> R:
        walk.leave_queue()
        try:
            walk.check("tokenize")
            with self._generations.lease() as generation:
                return work(generation, walk)
        except DeadlineExceededError as error:
            self._metrics.dropped.labels("late", error.stage).inc()
            raise
        except CallerGoneError as error:
            self._metrics.dropped.labels("gone", error.stage).inc()
            raise
        finally:
            self._metrics.stages(walk.spent_ms)


def _check_dimensions(generation: Generation, asked: int | None) -> None:
    dim = generation.manifest.space.dim
    if asked is not None and asked != dim:
        raise InvalidRequestError(FieldError("dimensions", f"{asked}; the vectors have {dim} and cannot be shortened"))


def _outcome(job: asyncio.Future[Any]) -> Outcome:
    if job.cancelled():
        return Outcome.FAILED
    error = job.exception()
    if error is None:
        return Outcome.DONE
    return Outcome.DROPPED if isinstance(error, DeadlineExceededError | CallerGoneError) else Outcome.FAILED
