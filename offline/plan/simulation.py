"""Replicas behind a balancer, request by request: Poisson arrivals, a door each, workers that may share too few cores.

A discrete-event simulation, deterministic for a seed. Where workers share cores, those at work go equally slower once there
are more of them than cores (processor sharing); the clock of the work done then runs slower than that of the wall.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offline.plan.door import Door, Guarded, Left, Open, Shedding
from offline.plan.times import Samples, Times

Balancing = Literal["least_connections", "round_robin", "random"]
_SETTLING = 0.1
"""Of the requests come before anything is counted: queues begin empty and doors know nothing."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serves.

    Attributes:
        workers: of each replica, threads that work at a time.
        hosts: on which the replicas are, by turns.
        cores: of each host, which its replicas share; None where each worker has one of its own.
        beside_ms: of a core that each arrival costs beside its worker: the event loop's part, and the client's where it is on
            the same host.
    """

    replicas: int = 1
    workers: int = 1
    hosts: int = 1
    cores: float | None = None
    balancing: Balancing = "least_connections"
    beside_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests at random moments; ``per_second`` on average."""

    per_second: float
    requests: int = 20_000
    seed: int = 1


@dataclass(frozen=True)
class Ran:
    """What became of the requests.

    Attributes:
        latencies_ms: of the answered, ascending.
        refused: turned away at the door.
        late: given up after waiting.
        busy_share: of the workers' time that was spent working.
        seconds: that were simulated.
    """

    latencies_ms: Samples
    refused: int
    late: int
    busy_share: float
    seconds: float

    @property
    def offered(self) -> int:
        return len(self.latencies_ms) + self.refused + self.late

    @property
    def shed_share(self) -> float:
        """Of all that came, those without an answer."""
        return (self.refused + self.late) / self.offered

    @property
    def answered_per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    @property
    def mean_ms(self) -> float:
        return float(np.mean(self.latencies_ms)) if len(self.latencies_ms) else math.nan

    def quantile_ms(self, share: float) -> float:
        """Of the answered; not a number where none was."""
        return float(np.quantile(self.latencies_ms, share)) if len(self.latencies_ms) else math.nan


def simulate(fleet: Fleet, times: Times, load: Load, shedding: Shedding | None = None) -> Ran:
    """Run ``load`` against ``fleet``; without ``shedding`` everybody waits for as long as it takes."""
    return _Run(fleet, times, load, shedding).run()


@dataclass(slots=True)
class _Request:
    arrived: float
    work_ms: float
    counted: bool
    patience_ms: float = 0.0
    begun: float = math.nan


class _Replica:
    """Its door, its host, its free workers, and the requests that wait for one, in order."""

    __slots__ = ("door", "free", "host", "in_flight", "queue")

    def __init__(self, workers: int, door: Door, host: _Host) -> None:
        self.free = workers
        self.door = door
        self.host = host
        self.in_flight = 0
        self.queue: deque[_Request] = deque()


_Work = tuple[float, int, _Replica | None, _Request | None]
"""When it ends by the host's clock of work, its number, and whose it is; nobody's where it is work beside."""


class _Host:
    """Cores under work. ``clock_ms`` is how far a worker would be that had worked all the time, whatever it shared."""

    __slots__ = ("at_work", "busy_ms", "clock_ms", "cores", "ends", "now", "version")

    def __init__(self, cores: float) -> None:
        self.cores = cores
        self.ends: list[_Work] = []
        self.now = self.clock_ms = self.busy_ms = 0.0
        self.at_work = self.version = 0

    def speed(self) -> float:
        """Of everybody at work, at most 1."""
        running = len(self.ends)
        return 1.0 if running <= self.cores else self.cores / running

    def move_to(self, now: float) -> None:
        self.clock_ms += (now - self.now) * self.speed()
        self.busy_ms += (now - self.now) * self.at_work
        self.now = now

    def due(self) -> float:
        """When the first of the work under way ends, if nothing is added."""
        return self.now + (self.ends[0][0] - self.clock_ms) / self.speed()


class _Run:
    """One simulation."""

    def __init__(self, fleet: Fleet, times: Times, load: Load, shedding: Shedding | None) -> None:
        self._fleet = fleet
        random = np.random.default_rng(load.seed)
        gaps = random.exponential(1000.0 / load.per_second, load.requests)
        self._arrivals: list[float] = np.cumsum(gaps).tolist()
        self._works: list[float] = times.at(random.random(load.requests)).tolist()
        self._ties = iter(random.random(load.requests).tolist())
        self._settled = int(_SETTLING * load.requests)
        self._hosts = [_Host(math.inf if fleet.cores is None else fleet.cores) for _ in range(fleet.hosts)]
        self._replicas = [
            _Replica(fleet.workers, _door(shedding, fleet.workers), self._hosts[number % fleet.hosts])
            for number in range(fleet.replicas)
        ]
        self._dues: list[tuple[float, int, int, _Host]] = []
        self._now = 0.0
        self._number = self._turn = self._refused = self._late = 0
        self._latencies: list[float] = []

    def run(self) -> Ran:
        for number, (at, work_ms) in enumerate(zip(self._arrivals, self._works, strict=True)):
            self._work_until(at)
            self._arrive(_Request(at, work_ms, number >= self._settled))
        self._work_until(math.inf)
        seconds = (self._arrivals[-1] - self._arrivals[self._settled]) / 1000.0
        busy_ms = sum(host.busy_ms for host in self._hosts)
        latencies = np.sort(np.asarray(self._latencies, np.float64))
        return Ran(
            latencies, self._refused, self._late, busy_ms / (self._now * len(self._replicas) * self._fleet.workers), seconds
        )

    def _work_until(self, until: float) -> None:
        """Let everything end that ends before ``until``."""
        while self._dues and self._dues[0][0] <= until:
            due, _, version, host = heapq.heappop(self._dues)
            if version == host.version:
                self._now = due
                self._end(host)
        if until < math.inf:
            self._now = until

    def _end(self, host: _Host) -> None:
        host.move_to(self._now)
        _, _, replica, request = heapq.heappop(host.ends)
        if replica is not None and request is not None:
            replica.free += 1
            host.at_work -= 1
            if request.counted:
                self._latencies.append(self._now - request.arrived)
            self._leave(replica, request, done=True)
            self._dispatch(replica)
        self._changed(host)

    def _changed(self, host: _Host) -> None:
        """What was foreseen of the host holds no more."""
        host.version += 1
        if host.ends:
            self._number += 1
            heapq.heappush(self._dues, (host.due(), self._number, host.version, host))

    def _arrive(self, request: _Request) -> None:
        replica = self._replicas[self._choose()]
        host = replica.host
        host.move_to(self._now)
        if self._fleet.beside_ms:
            self._start(host, self._fleet.beside_ms, None, None)
        patience_ms = replica.door.admits(self._now, replica.in_flight)
        if patience_ms is None:
            self._refused += request.counted
        else:
            request.patience_ms = patience_ms
            replica.in_flight += 1
            replica.queue.append(request)
            self._dispatch(replica)
        self._changed(host)

    def _choose(self) -> int:
        count, tie = self._fleet.replicas, next(self._ties)
        if count == 1:
            return 0
        self._turn += 1
        match self._fleet.balancing:
            case "random":
                return int(tie * count)
            case "round_robin":
                return self._turn % count
            case "least_connections":
                loads = [replica.in_flight for replica in self._replicas]
                least = min(loads)
                same = [number for number, in_flight in enumerate(loads) if in_flight == least]
                return same[int(tie * len(same))]

    def _dispatch(self, replica: _Replica) -> None:
        while replica.free and replica.queue:
            request = replica.queue.popleft()
            request.begun = self._now
            if replica.door.begins(self._now - request.arrived):
                replica.free -= 1
                replica.host.at_work += 1
                self._start(replica.host, request.work_ms, replica, request)
            else:
                self._late += request.counted
                self._leave(replica, request, done=False)

    def _start(self, host: _Host, work_ms: float, replica: _Replica | None, request: _Request | None) -> None:
        self._number += 1
        heapq.heappush(host.ends, (host.clock_ms + work_ms, self._number, replica, request))

    def _leave(self, replica: _Replica, request: _Request, *, done: bool) -> None:
        service_ms, queue_ms = self._now - request.begun, request.begun - request.arrived
        replica.door.ended(Left(service_ms, queue_ms, request.patience_ms, replica.in_flight, done))
        replica.in_flight -= 1


def _door(shedding: Shedding | None, workers: int) -> Door:
    return Open() if shedding is None else Guarded(shedding, workers)
