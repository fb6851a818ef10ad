"""Workers, a fake graph, and jobs for them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
from manual_clock import ManualClock

from service.admission import Lane
from service.deadline import Deadline
from service.steps import Encode, Ids, Steps, T, Vectors, Wait
from service.walk import Caller, Walk
from service.workers import Job, Workers

WAIT_SECONDS = 60
"""For what takes a second where nobody else wants the cores: a swap has little of them beside other work."""


def vector_of(ids: Ids) -> Vectors:
    """float32[1, 3]: no two of the tests' queries have the same."""
    return np.array([[len(ids), ids[0], sum(ids)]], dtype=np.float32)


class FakeGraph:
    """Encodes ids to what can be told from other ids'; remembers the first id of each query, call by call."""

    def __init__(self, rows: int, hook: Callable[[], object] = lambda: None) -> None:
        self.calls: list[list[int]] = []
        self.lengths: list[set[int]] = []
        self.hook = hook
        self._rows = rows

    def embed(self, ids: Sequence[Ids]) -> Vectors:
        self.calls.append([each[0] for each in ids])
        self.lengths.append({len(each) for each in ids})
        self.hook()
        return np.concatenate([vector_of(each) for each in ids])

    def rows(self, length: int) -> int:
        return self._rows


class Gate:
    """Holds a thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(WAIT_SECONDS)

    def until_reached(self) -> None:
        assert self.reached.wait(WAIT_SECONDS)


class Crew:
    """Workers, and jobs whose ends are futures: a second end of the same job would be an error."""

    def __init__(self, threads: int) -> None:
        self.clock = ManualClock()
        self.counted: list[int] = []
        self.workers = Workers(threads, self.counted.append, self.clock)
        self.gates: list[Gate] = []
        self.ends: Counter[Future[Any]] = Counter()
        self.workers.start()

    def walk(self, budget_ms: float = 1000) -> Walk:
        return Walk(Deadline.after(budget_ms, self.clock(), self.clock), Caller())

    def submit(self, steps: Steps[Any], lane: Lane = Lane.SEARCH, walk: Walk | None = None, queries: int = 1) -> Future[Any]:
        future: Future[Any] = Future()

        def end(job: Job) -> None:
            self.ends[future] += 1
            if job.error is None:
                future.set_result(job.value)
            else:
                future.set_exception(job.error)

        self.workers.submit(Job(lane, steps, walk or self.walk(), end, queries))
        return future

    def hold(self, lane: Lane = Lane.SEARCH) -> Gate:
        """Keep one thread busy until the gate is opened."""
        gate = self.gate()
        self.submit(work(gate), lane)
        gate.until_reached()
        return gate

    def gate(self) -> Gate:
        self.gates.append(Gate())
        return self.gates[-1]

    def close(self) -> None:
        for gate in self.gates:
            gate.open.set()
        self.workers.close()
        for thread in self.workers._running:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


@contextmanager
def crews() -> Iterator[Callable[[int], Crew]]:
    """Makes crews of so many threads, and closes them."""
    made: list[Crew] = []

    def make(threads: int) -> Crew:
        made.append(Crew(threads))
        return made[-1]

    yield make
    for crew in made:
        crew.close()


def work(what: Callable[[], object]) -> Steps[Any]:
    """Needs no vector."""
    yield from ()
    return what()


def ask(graph: FakeGraph, ids: Ids) -> Steps[Vectors | None]:
    """Needs one vector."""
    return (yield Encode(graph, ids))


def query(first: int, length: int) -> list[int]:
    return [first] * length


def result(future: Future[Any]) -> Any:
    return future.result(WAIT_SECONDS)


def error(future: Future[Any]) -> BaseException | None:
    return future.exception(WAIT_SECONDS)


def alone(steps: Steps[T], walk: Walk) -> T:
    """Run to the end with nobody beside, whom it could wait for."""
    sent: Vectors | None = None
    try:
        while True:
            step = steps.send(sent)
            assert not isinstance(step, Wait)
            sent = None
            if isinstance(step, Encode):
                walk.enter("encode")
                sent = step.graph.embed([step.ids])
    except StopIteration as stop:
        value: T = stop.value
        return value
