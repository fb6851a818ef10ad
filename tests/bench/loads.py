"""Loads: a closed loop, whose clients wait for their answers, and an open one, whose arrivals wait for nobody."""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from tests.bench.client import CLOSED, Answer, Wire

Clock = Callable[[], float]
_IDLE_SECONDS = 0.05
_PRIORITY = -10
GRACE_SECONDS = 5.0
"""How long after the last arrival answers are waited for."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that is to be sent ``at`` seconds after the start, whatever became of the ones before."""

    at: float
    request: bytes
    label: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request; times in seconds from the start.

    Attributes:
        due: when it was to be sent.
        sent: when it was: later, where the client had no connection free or was busy.
        status: CLOSED where there was no answer.
    """

    label: str
    request: bytes
    due: float
    sent: float
    finished: float
    status: int
    head: bytes
    body: bytes

    @property
    def latency_ms(self) -> float:
        """From the moment it was due, so that a stalled server cannot hide the requests it kept from being sent."""
        return (self.finished - self.due) * 1e3

    @property
    def answer_ms(self) -> float:
        """From the moment it was sent."""
        return (self.finished - self.sent) * 1e3


@dataclass(frozen=True)
class Load:
    """Outcomes in the order of their ends; ``seconds`` of the whole; CPU seconds that the client itself took."""

    outcomes: list[Outcome]
    seconds: float
    client_cpu_seconds: float


def poisson(requests: Sequence[bytes], per_second: float, seconds: float, seed: int, label: str = "search") -> list[Planned]:
    """Arrivals whose gaps are exponentially distributed; ``requests`` are taken in turn."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / per_second, size=int(per_second * seconds * 1.5) + 100)
    arrivals = np.cumsum(gaps)
    return [Planned(float(at), requests[number % len(requests)], label) for number, at in enumerate(arrivals[arrivals < seconds])]


def steady(request: bytes, per_second: float, seconds: float, label: str) -> list[Planned]:
    """Arrivals at equal distances."""
    return [Planned(number / per_second, request, label) for number in range(int(per_second * seconds))]


def merged(*plans: Sequence[Planned]) -> list[Planned]:
    """Several plans as one, in the order of time."""
    return sorted((planned for plan in plans for planned in plan), key=lambda planned: planned.at)


def open_loop(wire: Wire, connections: int, plan: Sequence[Planned], clock: Clock = time.perf_counter) -> Load:
    """Send each request when it is due, or as soon as a connection is free again."""
    with undisturbed() as cpu:
        outcomes = list(arriving(wire, connections, plan, clock))
        seconds = max(plan[-1].at, outcomes[-1].finished)
        return Load(outcomes, seconds, cpu())


def closed_loop(
    wire: Wire, connections: int, requests: Sequence[bytes], seconds: float, clock: Clock = time.perf_counter
) -> Load:
    """Each connection sends its next request as soon as it has its answer, until ``seconds`` have passed."""
    with undisturbed() as cpu:
        started = clock()
        outcomes = list(_closed(wire, connections, requests, seconds, clock))
        return Load(outcomes, clock() - started, cpu())


def arriving(
    wire: Wire, connections: int, plan: Sequence[Planned], clock: Clock, is_over: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    """The outcomes of an open loop as they come; once ``is_over``, nothing more is sent."""
    started, position = clock(), 0
    free = deque(range(connections))
    under_way: dict[int, tuple[Planned, float]] = {}
    give_up = plan[-1].at + GRACE_SECONDS
    while (position < len(plan) or under_way) and (now := clock() - started) < give_up:
        if position < len(plan) and is_over():
            plan, give_up = plan[:position], now + GRACE_SECONDS
        while position < len(plan) and free and plan[position].at <= now:
            connection = free.popleft()
            wire.send(connection, plan[position].request)
            under_way[connection] = plan[position], now
            position += 1
            now = clock() - started
        pause = plan[position].at - now if position < len(plan) and free else _IDLE_SECONDS
        for answer in wire.wait(min(pause, _IDLE_SECONDS)):
            if answer.connection in under_way:
                yield _outcome(*under_way.pop(answer.connection), clock() - started, answer)
                free.append(answer.connection)
    unsent = ((planned, give_up) for planned in plan[position:])
    for planned, sent in (*under_way.values(), *unsent):
        yield _outcome(planned, sent, give_up, Answer(0, CLOSED, b"", b""))


def _closed(wire: Wire, connections: int, requests: Sequence[bytes], seconds: float, clock: Clock) -> Iterator[Outcome]:
    started, position = clock(), 0
    under_way: dict[int, tuple[Planned, float]] = {}
    idle = list(range(connections))
    while idle or under_way:
        for connection in idle:
            now = clock() - started
            if now < seconds:
                planned = Planned(now, requests[position % len(requests)], "search")
                wire.send(connection, planned.request)
                under_way[connection] = planned, now
                position += 1
        idle = []
        for answer in wire.wait(_IDLE_SECONDS):
            if answer.connection in under_way:
                yield _outcome(*under_way.pop(answer.connection), clock() - started, answer)
                idle.append(answer.connection)


def _outcome(planned: Planned, sent: float, finished: float, answer: Answer) -> Outcome:
    return Outcome(planned.label, planned.request, planned.at, sent, finished, answer.status, answer.head, answer.body)


@contextmanager
def undisturbed() -> Iterator[Callable[[], float]]:
    """Nothing that delays the client may count as the server's: no garbage collector, and first on the cores where that is
    allowed (they are the server's too). Yields the CPU seconds since.
    """
    gc.collect()
    gc.disable()
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):  # of root only; then what the client's lag says has to be heeded
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    before = time.process_time()
    try:
        yield lambda: time.process_time() - before
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        gc.enable()
