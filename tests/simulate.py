"""A service in miniature, on a manual clock: Poisson arrivals, a door, lanes before some workers. Deterministic for a seed."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from manual_clock import ManualClock

from service.admission import Lane, Limiter
from service.errors import OverloadedError
from service.limits import Limit, Outcome

SHARES = {Lane.SEARCH: 8.0, Lane.EMBED: 2.0, Lane.BATCH: 2.0}
"""Of the workers' time, as in service.workers."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One kind of traffic: ``rate`` requests a second of ``items`` each, between two moments in seconds."""

    rate: float
    lane: Lane = Lane.SEARCH
    items: int = 1
    budget_ms: float = 50.0
    begin: float = 0.0
    end: float = math.inf


@dataclass(slots=True)
class Request:
    arrived: float
    kind: Arrivals
    left: int
    begun: float = math.nan
    worked: float = 0.0
    latency_ms: float = math.nan
    outcome: str = "refused"

    @property
    def admitted(self) -> bool:
        return self.outcome != "refused"

    @property
    def in_budget(self) -> bool:
        return self.outcome == "done" and self.latency_ms <= self.kind.budget_ms


@dataclass(frozen=True, slots=True)
class World:
    """What happens to a service, whatever its limit: seconds it runs for, what an item takes at a time, when it stands still."""

    traffic: tuple[Arrivals, ...]
    service_ms: Callable[[float], float]
    seconds: float = 10.0
    workers: int = 2
    sigma: float = 0.3
    freeze: tuple[float, float] = (math.inf, math.inf)
    seed: int = 7


@dataclass(slots=True)
class Ran:
    """What became of every request, and the limit over time."""

    requests: list[Request]
    limits: list[tuple[float, int]] = field(default_factory=list)

    def of(self, begin: float = 0.0, end: float = math.inf, lane: Lane = Lane.SEARCH) -> list[Request]:
        return [each for each in self.requests if begin <= each.arrived < end and each.kind.lane is lane]

    def goodput(self, begin: float, end: float) -> float:
        """Searches answered in budget, a second."""
        return sum(each.in_budget for each in self.of(begin, end)) / (end - begin)

    def latency_ms(self, percentile: float, begin: float, end: float) -> float:
        """Of searches that were let in, given up later or not."""
        return float(np.percentile([each.latency_ms for each in self.of(begin, end) if each.admitted], percentile))

    def admitted(self, begin: float, end: float) -> float:
        """Share of searches."""
        return float(np.mean([each.admitted for each in self.of(begin, end)]))

    def kept(self, begin: float, end: float) -> float:
        """Share of the searches let in that were answered in budget."""
        return float(np.mean([each.in_budget for each in self.of(begin, end) if each.admitted]))

    def limit(self, begin: float, end: float) -> list[int]:
        return [value for at, value in self.limits if begin <= at < end]


class Simulation:
    """Runs a world against a limit."""

    def __init__(self, world: World, limit: Limit) -> None:
        self._world = world
        self._clock = ManualClock(0.0)
        self._random = random.Random(world.seed)
        self._limiter = Limiter(limit, world.workers, lambda: 0.5, clock=self._clock)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._free = world.workers
        self._queues: dict[Lane, deque[tuple[Request, Callable[[Outcome], None]]]] = {lane: deque() for lane in Lane}
        self._spent = dict.fromkeys(Lane, 0.0)
        self._ran = Ran([])

    def run(self) -> Ran:
        for kind in self._world.traffic:
            for at in self._poisson(kind):
                self._at(self._thawed(at), lambda at=at, kind=kind: self._arrive(kind))
        while self._events:
            self._clock.now, _, event = heapq.heappop(self._events)
            event()
            self._ran.limits.append((self._clock.now, self._limiter.limit))
        return self._ran

    def _poisson(self, kind: Arrivals) -> Iterator[float]:
        at = kind.begin
        while (at := at + self._random.expovariate(kind.rate)) < min(kind.end, self._world.seconds):
            yield at

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), event))

    def _thawed(self, when: float) -> float:
        """What would happen while the process stands still happens when it goes on."""
        begin, end = self._world.freeze
        return end if begin <= when < end else when

    def _arrive(self, kind: Arrivals) -> None:
        request = Request(self._clock(), kind, kind.items)
        self._ran.requests.append(request)
        try:
            patience_ms = self._limiter.patience_ms(kind.lane, kind.budget_ms, kind.budget_ms)
            token = self._limiter.acquire(kind.lane, kind.items, patience_ms)
        except OverloadedError:
            return

        def release(outcome: Outcome) -> None:
            request.outcome = outcome.value
            request.latency_ms = (self._clock() - request.arrived) * 1000
            begun = self._clock() if math.isnan(request.begun) else request.begun
            token.release(request.worked * 1000, (begun - request.arrived) * 1000, outcome)

        self._queues[kind.lane].append((request, release))
        self._dispatch()

    def _median_ms(self) -> float:
        """As the cost model would say."""
        return self._world.service_ms(self._clock())

    def _dispatch(self) -> None:
        while self._free and (waiting := [lane for lane in Lane if self._queues[lane]]):
            lane = min(waiting, key=lambda lane: self._spent[lane])
            request, release = self._queues[lane].popleft()
            if self._left_ms(request) < self._median_ms():
                release(Outcome.DROPPED)
            else:
                self._work(request, release)

    def _left_ms(self, request: Request) -> float:
        return request.kind.budget_ms - (self._clock() - request.arrived) * 1000

    def _work(self, request: Request, release: Callable[[Outcome], None]) -> None:
        self._free -= 1
        if math.isnan(request.begun):
            request.begun = self._clock()
        seconds = self._median_ms() * self._random.lognormvariate(0.0, self._world.sigma) / 1000
        begin, end = self._world.freeze
        until = self._clock() + seconds
        if self._clock() < begin <= until:
            until += end - begin
        request.worked += until - self._clock()
        lane = request.kind.lane
        floor = min((self._spent[other] for other in Lane if self._queues[other]), default=self._spent[lane])
        self._spent[lane] = max(self._spent[lane], floor - 1.0) + seconds / SHARES[lane]
        self._at(until, lambda: self._done(request, release))

    def _done(self, request: Request, release: Callable[[Outcome], None]) -> None:
        self._free += 1
        request.left -= 1
        if request.left:
            self._queues[request.kind.lane].append((request, release))
        else:
            release(Outcome.DONE)
        self._dispatch()

    def items_done(self, lane: Lane) -> int:
        return sum(each.kind.items - each.left for each in self._ran.requests if each.kind.lane is lane)


def run(world: World, limit: Limit) -> Ran:
    return Simulation(world, limit).run()


def capacity(world: World, at: float = 0.0) -> float:
    """Items a second that the workers can do."""
    mean_ms = world.service_ms(at) * math.exp(world.sigma**2 / 2)
    return world.workers * 1000 / mean_ms
