"""The walk of one request: door, queue, stages, render. No HTTP here.

All CPU work of a request is done by worker threads, which hold a lease of a generation for it: a request that is
cancelled may leave its thread inside the engine. The event loop only waits, and not beyond the deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.admission import Lane, Limiter, Token
from service.cache import VectorCache
from service.costs import load_of
from service.errors import (
    CallerGoneError,
    DeadlineExceededError,
    DrainingError,
    FieldError,
    InvalidRequestError,
    OverloadedError,
)
from service.generation import Generation
from service.limits import Outcome
from service.metrics import Metrics
from service.stages import Encoded, Result, Search, Stages, Target
from service.steps import Steps
from service.swap import Generations
from service.walk import Walk
from service.workers import Job, Workers

T = TypeVar("T")
Work = Callable[[Generation], Steps[T]]


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


def _unheard(query: str) -> None:
    """Nobody remembers."""


class Pipeline:
    """Runs requests. ``then`` renders the answer on the worker thread, so that a large one does not hold the event loop.

    Every method raises OverloadedError, DrainingError, NoGenerationError, DeadlineExceededError, CallerGoneError and,
    where only the snapshot shows that a request makes no sense, InvalidRequestError.
    """

    def __init__(
        self,
        generations: Generations,
        workers: Workers,
        limiter: Limiter,
        cache: VectorCache,
        metrics: Metrics,
        plan_probability: float = 0.99,
        note: Callable[[str], object] = _unheard,
        hear: Callable[[Search, Result, Generation], object] | None = None,
    ) -> None:
        self._generations = generations
        self._workers = workers
        self._limiter = limiter
        self._cache = cache
        self._metrics = metrics
        self._probability = plan_probability
        self._note = note
        self._hear = hear

    async def search(self, search: Search, walk: Walk, then: Callable[[Answer], T]) -> T:
        """Answer one search."""

        def work(generation: Generation) -> Steps[T]:
            result = yield from self._stages(generation, walk).search(search)
            self._found(search, result, generation, walk)
            return self._answer([result], generation, walk, then)

        return await self._run(Lane.SEARCH, 1, work, walk)

    async def search_batch(self, searches: Sequence[Search], walk: Walk, then: Callable[[Answer], T]) -> T:
        """Answer at least one search, in order; InvalidRequestError paths begin with the index of the search."""

        def work(generation: Generation) -> Steps[T]:
            results = yield from self._stages(generation, walk).search_many(searches)
            for search, result in zip(searches, results, strict=True):
                self._found(search, result, generation, walk)
            return self._answer(results, generation, walk, then)

        return await self._run(Lane.BATCH, len(searches), work, walk)

    async def embed(self, queries: Sequence[str], walk: Walk, then: Callable[[Embedded], T], dimensions: int | None = None) -> T:
        """Encode at least one query by the query tower; InvalidRequestError unless that gives ``dimensions``, where asked."""

        def work(generation: Generation) -> Steps[T]:
            _check_dimensions(generation, dimensions)
            encoded = yield from self._stages(generation, walk).encode(queries)
            walk.enter("render")
            return then(Embedded(encoded, generation.id, walk.timings_ms()))

        return await self._run(Lane.EMBED, len(queries), work, walk)

    def knock(self, lane: Lane, most_ms: float) -> None:
        """Whether there is any point in receiving more of a request, whose budget is ``most_ms`` at most.

        Raises:
            OverloadedError, DrainingError: there is none.
        """
        self._counted(self._limiter.knock, lane, 1, self._limiter.patience_ms(lane, most_ms, most_ms))

    def account(self, walk: Walk, trace_id: str | None = None) -> None:
        """The answer is out, or there is none, and the walk has stopped: count where the time went, and learn from it."""
        budget_ms = walk.deadline.budget_ms
        if walk.given_up:  # a thread is still at it, and goes on timing its stages
            self._metrics.stages(walk.spent_until(budget_ms - walk.remaining_ms()), budget_ms, trace_id)
            return
        self._metrics.stages(walk.spent_ms, budget_ms, trace_id)
        _learn(walk)

    def _stages(self, generation: Generation, walk: Walk) -> Stages:
        load = load_of(self._limiter.in_flight, self._workers.threads)
        return Stages(generation, walk, self._cache, Target(load, self._probability))

    def _found(self, search: Search, result: Result, generation: Generation, walk: Walk) -> None:
        if walk.synthetic:
            return
        self._note(search.query)
        if self._hear is not None:
            self._hear(search, result, generation)

    def _answer(self, results: list[Result], generation: Generation, walk: Walk, then: Callable[[Answer], T]) -> T:
        walk.enter("render")
        rendered = then(Answer(results, generation.id, walk.timings_ms()))
        for result in results:
            self._metrics.searched(result.plan)
        return rendered

    async def _run(self, lane: Lane, items: int, work: Work[T], walk: Walk) -> T:
        reason = walk.hopeless("tokenize")
        if reason is not None:
            self._metrics.dropped_before(reason)
            raise reason
        token = self._admit(lane, items, walk)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        came_ms = walk.deadline.budget_ms - walk.remaining_ms()
        ended = partial(self._ended, token, came_ms, answer)
        job = Job(lane, self._leased(work), walk, partial(_tell, loop, ended), items)
        late = _Late(loop, answer, walk)
        if lane is Lane.SEARCH:  # a batch would go on for as long as it takes, for nobody
            walk.on_refusal = partial(self._refuse, loop, answer)
        self._workers.submit(job)
        try:
            return await answer
        except asyncio.CancelledError:
            walk.caller.gone = True
            raise
        finally:
            late.cancel()

    def _admit(self, lane: Lane, items: int, walk: Walk) -> Token:
        may_wait_ms = self._limiter.patience_ms(lane, walk.remaining_ms(), walk.deadline.budget_ms)
        return self._counted(self._limiter.acquire, lane, items, may_wait_ms)

    def _counted(self, ask: Callable[..., T], *asked: Any) -> T:
        """Ask the door. No context manager: under overload most requests end here, and it would cost as much as the asking."""
        try:
            return ask(*asked)
        except (OverloadedError, DrainingError) as error:
            self._metrics.refused(error)
            raise

    def _leased(self, work: Work[T]) -> Steps[T]:
        with self._generations.lease() as generation:
            return (yield from work(generation))

    def _refuse(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], reason: DeadlineExceededError) -> None:
        """From the thread that goes on with it."""
        self._metrics.dropped_before(reason)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_fail, answer, reason)

    def _ended(self, token: Token, came_ms: float, answer: asyncio.Future[T], job: Job) -> None:
        """The token is held until the threads are done with the job, not until its caller is.

        What passed before it came to the door, such as a slow body, is no queue of ours.
        """
        queue_ms = max(0.0, job.walk.spent_ms.get("queue", 0.0) - came_ms)
        token.release(job.walk.service_ms(), queue_ms, _outcome(job.error))
        if isinstance(job.error, DeadlineExceededError | CallerGoneError) and not job.walk.refused:
            self._metrics.dropped_before(job.error)
        if answer.done():
            _learn(job.walk)
            return
        if job.error is None:
            answer.set_result(job.value)
        else:
            answer.set_exception(job.error)


def _fail(answer: asyncio.Future[T], reason: Exception) -> None:
    if not answer.done():
        answer.set_exception(reason)


def _tell(loop: asyncio.AbstractEventLoop, ended: Callable[[Job], None], job: Job) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(ended, job)


class _Late:
    """A stage that blocks does not make its caller wait longer than the budget; the rest of the work is dropped.

    Never before the budget is spent: uvloop rounds to milliseconds, down too, which is much of a budget of five.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], walk: Walk) -> None:
        self._loop = loop
        self._answer = answer
        self._walk = walk
        self._timer = self._wait()

    def cancel(self) -> None:
        self._timer.cancel()

    def _wait(self) -> asyncio.TimerHandle:
        return self._loop.call_later(math.ceil(max(0.0, self._walk.remaining_ms())) / 1000.0, self._give_up)

    def _give_up(self) -> None:
        if self._answer.done():
            return
        if self._walk.remaining_ms() > 0:
            self._timer = self._wait()
            return
        self._walk.given_up = True
        self._answer.set_exception(self._walk.exceeded(self._walk.stage, begun=True))


def _learn(walk: Walk) -> None:
    if walk.lesson is not None:
        walk.lesson(walk.spent_ms)


def _check_dimensions(generation: Generation, asked: int | None) -> None:
    dim = generation.manifest.space.dim
    if asked is not None and asked != dim:
        raise InvalidRequestError(FieldError("dimensions", f"{asked}; the vectors have {dim} and cannot be shortened"))


def _outcome(error: Exception | None) -> Outcome:
    if error is None:
        return Outcome.DONE
    return Outcome.DROPPED if isinstance(error, DeadlineExceededError | CallerGoneError) else Outcome.FAILED
