"""The threads that do the work of requests, and the queue in front of them.

A request is a generator (``service.steps``). Where it needs a vector, those of other waiting requests that are worth one
call of the graph are computed with it. Nobody waits for company: only what is waiting anyway is looked at.

What was begun goes before what is new. New work is shared out between the lanes by their weight in time, not in
requests, so that a batch of a thousand texts cannot starve single queries, nor the other way round. Within a lane
requests take turns by when each would be done if it were served alone at a steady pace (after Friedman and Henderson,
"Fairness and Efficiency in Web Server Protocols", SIGMETRICS 2003): batches are answered one after another instead of
growing late together, and a small one need not wait for a large one that has only just come.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from service.admission import Lane
from service.errors import DrainingError
from service.niceness import yield_to_the_event_loop
from service.steps import Encode, Graph, Ready, Step, Steps, Vectors, Wait
from service.walk import Walk

WEIGHTS: Mapping[Lane, float] = {Lane.SEARCH: 8.0, Lane.EMBED: 2.0, Lane.BATCH: 2.0}
"""Shares of the threads' time where all lanes have work."""

_PACE_SECONDS = 0.004
"""A query of a batch on a busy machine. The order is all that hangs on it: a batch of 250 lets small ones that come within
a second go first."""

_LOOK_AHEAD, _LOOK_SECONDS = 16, 0.002
"""Requests that are looked at to find company for one, and for how long: it is spent before the first is encoded. Sixteen of
the usual length take a millisecond, and one of 32 kB without spaces takes 15."""

Sent = Vectors | Exception | None
"""What a waiting generator is told: a vector, that it cannot have one, or nothing."""


class Job:
    """One request at work.

    Attributes:
        turn: its place among those of its lane: when it would be done at a steady pace, and of equals the first that came.
        on_end: called by the thread that ended it; must not raise.
        value: what the generator returned, once it has ended without an error.
        error: what it raised.
    """

    __slots__ = ("error", "lane", "on_end", "steps", "turn", "value", "walk")

    _numbers = itertools.count()

    def __init__(self, lane: Lane, steps: Steps[Any], walk: Walk, on_end: Callable[[Job], None], queries: int = 1) -> None:
        self.lane = lane
        self.turn = (walk.deadline.started + queries * _PACE_SECONDS, next(self._numbers))
        self.steps = steps
        self.walk = walk
        self.on_end = on_end
        self.value: Any = None
        self.error: Exception | None = None

    def __lt__(self, other: Job) -> bool:
        return self.turn < other.turn

    def advance(self, sent: Sent) -> Step | None:
        """Go on to the next step; None once the end was reached."""
        try:
            return self.steps.throw(sent) if isinstance(sent, Exception) else self.steps.send(sent)
        except StopIteration as stop:
            self.value = stop.value
        except Exception as error:  # noqa: BLE001 - whoever waits for the job raises it
            self.error = error
        self.walk.pass_to("reply")
        self.on_end(self)
        return None


@dataclass(slots=True)
class _LaneQueue:
    """New work of a lane.

    Attributes:
        jobs: a heap.
        most: threads that it may have at a time.
        busy: threads that it has.
        spent: seconds of work over the weight: the lane with least is served next.
    """

    weight: float
    most: int
    jobs: list[Job] = field(default_factory=list)
    busy: int = 0
    spent: float = 0.0


def _unheard(rows: int) -> None:
    """Nobody counts."""


class Workers:
    """A fixed number of threads. Every method but ``start`` and ``close`` is safe from any thread."""

    def __init__(
        self, threads: int, on_call: Callable[[int], None] = _unheard, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing runs before ``start``.

        Args:
            threads: how many; all but one of them may work on batches at a time.
            on_call: hears how many queries went through the graph together.
            clock: monotonic seconds.
        """
        self.threads = threads
        self._on_call = on_call
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[threading.Lock] = []  # one for each sleeping thread, which waits for it to be released
        self._closed = False
        self._begun: deque[tuple[Job, Sent]] = deque()
        self._parked: OrderedDict[tuple[Graph, int], deque[tuple[Job, Encode]]] = OrderedDict()
        others = max(1, threads - 1)
        self._lanes = {lane: _LaneQueue(weight, threads if lane is Lane.SEARCH else others) for lane, weight in WEIGHTS.items()}
        self._running = [threading.Thread(target=self._run, name=f"worker-{i}") for i in range(threads)]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._running:
            thread.start()

    def submit(self, job: Job) -> None:
        """Work on a job as soon as its turn comes; its ``on_end`` is called in every case."""
        with self._lock:
            if not self._closed:
                self._enqueue(job)
                return
        job.advance(DrainingError("the service is shutting down"))

    def waiting(self) -> int:
        """Requests that no thread is working on."""
        with self._lock:
            parked = sum(map(len, self._parked.values()))
            return len(self._begun) + parked + sum(len(lane.jobs) for lane in self._lanes.values())

    def close(self) -> None:
        """End the threads once they are done with what they have in hand; what still waits ends with DrainingError."""
        with self._lock:
            self._closed = True
            waiting = [job for job, _ in self._begun]
            waiting += [job for group in self._parked.values() for job, _ in group]
            waiting += [job for lane in self._lanes.values() for job in lane.jobs]
            self._begun.clear()
            self._parked.clear()
            for lane in self._lanes.values():
                lane.jobs.clear()
            while self._idle:
                self._notify()
        for job in waiting:
            job.advance(DrainingError("the service is shutting down"))

    # -- the queue; these need the lock

    def _enqueue(self, job: Job) -> None:
        lane = self._lanes[job.lane]
        if not lane.jobs and not lane.busy:  # whoever was away has no claim to the time that the others used meanwhile
            active = [other.spent for other in self._lanes.values() if other.jobs or other.busy]
            lane.spent = max(lane.spent, min(active, default=lane.spent))
        heappush(lane.jobs, job)
        self._notify()

    def _notify(self) -> None:
        if self._idle:
            self._idle.pop().release()

    def _may_go_before(self, job: Job) -> bool:
        if self._begun or self._parked:
            return True
        return any(lane.jobs and (name is not job.lane or lane.jobs[0] < job) for name, lane in self._lanes.items())

    def _next_lane(self) -> _LaneQueue | None:
        ready = [lane for lane in self._lanes.values() if lane.jobs and lane.busy < lane.most]
        return min(ready, key=lambda lane: lane.spent) if ready else None

    def _take(self) -> tuple[Job, Sent | Encode] | None:
        """What to do next: what was begun, oldest first, else new work."""
        if self._begun:
            return self._begun.popleft()
        if self._parked:
            key = next(iter(self._parked))
            return self._take_parked(key)
        lane = self._next_lane()
        return None if lane is None else (heappop(lane.jobs), None)

    def _take_parked(self, key: tuple[Graph, int]) -> tuple[Job, Encode] | None:
        group = self._parked.get(key)
        if group is None:
            return None
        taken = group.popleft()
        if not group:
            del self._parked[key]
        return taken

    # -- the threads

    def _run(self) -> None:
        yield_to_the_event_loop()
        sleep = threading.Lock()  # of its own: threads that sleep on one lock wake each other
        sleep.acquire()
        while True:
            with self._lock:
                taken = self._take()
                if taken is None:
                    if self._closed:
                        return
                    self._idle.append(sleep)
                else:
                    lane = self._lanes[taken[0].lane]
                    lane.busy += 1
            if taken is None:
                sleep.acquire()
                continue
            begun = self._clock()
            self._work(*taken)
            with self._lock:
                lane.busy -= 1
                lane.spent += (self._clock() - begun) / lane.weight

    def _work(self, job: Job, sent: Sent | Encode) -> None:
        """Go on with a job until it has ended or is set aside."""
        step = sent if isinstance(sent, Encode) else job.advance(sent)
        while step is not None:
            answer: Sent = None
            if isinstance(step, Encode):
                answer = self._encode(job, step)
            elif self._set_aside(job, step):
                return
            step = job.advance(answer)

    def _set_aside(self, job: Job, step: Step) -> bool:
        """Whether others go first; the job comes back by itself."""
        if isinstance(step, Ready):
            return False
        if isinstance(step, Wait):
            job.walk.pass_to("queue")
            return step.join(lambda: self._resume(job, None))
        with self._lock:
            if self._closed or not self._may_go_before(job):
                return False
            job.walk.pass_to("queue")
            self._enqueue(job)
            return True

    def _resume(self, job: Job, sent: Sent) -> None:
        with self._lock:
            if not self._closed:
                self._begun.append((job, sent))
                self._notify()
                return
        job.advance(DrainingError("the service is shutting down"))

    def _encode(self, job: Job, need: Encode) -> Sent:
        """The vector that a job needs; those of others who are worth the same call are sent to them."""
        reason = job.walk.hopeless("encode")
        if reason is not None:
            return reason
        company = self._company(job, need)
        reason = job.walk.hopeless("encode") if company else None
        if reason is not None:
            for member, step in company:
                self._park(member, step)
            return reason
        group = [(job, need), *company]
        self._on_call(len(group))
        for member, _ in group:
            member.walk.pass_to("encode")
        try:
            vectors = need.graph.embed([each.ids for _, each in group])
        except Exception as error:  # noqa: BLE001 - each of them raises it
            answers: list[Sent] = [error] * len(group)
        else:
            answers = [vectors[i : i + 1] for i in range(len(group))]
        for (member, _), answer in zip(company, answers[1:], strict=True):
            member.walk.pass_to("queue")
            self._resume(member, answer)
        return answers[0]

    def _company(self, job: Job, need: Encode) -> list[tuple[Job, Encode]]:
        """Waiting jobs that need a vector of a text of the same length from the same graph.

        Those that are looked at come as far as their vectors and no further: a job must not wait for the rest of others' work.
        """
        found: list[tuple[Job, Encode]] = []
        most = need.graph.rows(len(need.ids)) - 1
        if most <= 0:
            return found
        job.walk.pass_to("queue")
        end = self._clock() + _LOOK_SECONDS
        for _ in range(_LOOK_AHEAD):
            waiting = self._take_waiting(need) if len(found) < most and self._clock() < end else None
            if waiting is None:
                break
            step = self._joining(*waiting, need)
            if step is not None:
                found.append((waiting[0], step))
        return found

    def _take_waiting(self, need: Encode) -> tuple[Job, Step | None] | None:
        """A job that was parked at such a step, else the next single query as far as its vector; None where none waits."""
        with self._lock:
            parked = self._take_parked((need.graph, len(need.ids)))
            if parked is not None:
                return parked
            fresh = self._lanes[Lane.SEARCH].jobs
            if not fresh:
                return None
            job = heappop(fresh)
        step = job.advance(None)
        if step is not None:
            job.walk.pass_to("queue")
        return job, step

    def _joining(self, job: Job, step: Step | None, need: Encode) -> Encode | None:
        """The step of a job that goes along; any other goes its own way from here."""
        if isinstance(step, Encode):
            reason = job.walk.hopeless("encode")
            if reason is not None:
                job.advance(reason)
            elif step.graph is need.graph and len(step.ids) == len(need.ids):
                return step
            else:
                self._park(job, step)
        elif step is not None and not self._set_aside(job, step):
            self._resume(job, None)
        return None

    def _park(self, job: Job, step: Encode) -> None:
        with self._lock:
            if not self._closed:
                self._parked.setdefault((step.graph, len(step.ids)), deque()).append((job, step))
                self._notify()
                return
        job.advance(DrainingError("the service is shutting down"))
