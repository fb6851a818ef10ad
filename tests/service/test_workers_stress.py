"""Many threads, many jobs: each ends once, with its own vector."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from crew import WAIT_SECONDS, Crew, FakeGraph, crews, error, query, result, vector_of

from service.admission import Lane
from service.errors import CallerGoneError, DrainingError
from service.steps import Encode, Ids, Pause, Steps, Vectors, Wait


@pytest.fixture
def crew_of() -> Iterator[Callable[[int], Crew]]:
    with crews() as make:
        yield make


def at_once(resume: Callable[[], None]) -> bool:
    """Called back before the thread that asked has let go."""
    resume()
    return True


def mixed(graph: FakeGraph, ids: Ids, kind: int) -> Steps[Vectors | None]:
    if kind % 3 == 0:
        yield Wait(at_once if kind % 2 else lambda _: False)
    vector = yield Encode(graph, ids)
    if kind % 5 == 0:
        yield Pause()
        yield Wait(at_once)
    return vector


@pytest.mark.parametrize("seed", range(3))
def test_under_stress_every_job_ends_once_with_its_own_vector(crew_of: Callable[[int], Crew], seed: int) -> None:
    random_ = random.Random(seed)
    crew, graphs = crew_of(4), [FakeGraph(rows=4), FakeGraph(rows=2)]
    jobs = [(random_.choice(graphs), query(i, random_.randint(1, 5)), random_.choice(list(Lane)), i) for i in range(800)]
    hopeless = set(random_.sample(range(800), 50))
    futures: dict[int, Future[Any]] = {}
    barrier = threading.Barrier(4)

    def submit(part: int) -> None:
        barrier.wait(WAIT_SECONDS)
        for graph, ids, lane, i in jobs[part::4]:
            walk = crew.walk()
            walk.caller.gone = i in hopeless
            futures[i] = crew.submit(mixed(graph, ids, i), lane, walk)

    submitters = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join(WAIT_SECONDS)
    for _, ids, _, i in jobs:
        if i in hopeless:
            assert isinstance(error(futures[i]), CallerGoneError)
        else:
            np.testing.assert_array_equal(result(futures[i]), vector_of(ids))
    crew.close()
    assert set(crew.ends.values()) == {1}
    encoded = sorted(first for graph in graphs for call in graph.calls for first in call)
    assert encoded == sorted(set(range(800)) - hopeless)
    for graph in graphs:
        assert all(len(call) <= graph.rows(0) for call in graph.calls)
        assert all(len(lengths) == 1 for lengths in graph.lengths)


def test_closing_under_stress_ends_every_job_once(crew_of: Callable[[int], Crew]) -> None:
    crew, graph = crew_of(4), FakeGraph(rows=4)
    futures: list[Future[Any]] = []
    half = threading.Event()

    def submit() -> None:
        for i in range(400):
            futures.append(crew.submit(mixed(graph, query(i, 1 + i % 4), i), list(Lane)[i % 3]))
            if i == 200:
                half.set()

    submitter = threading.Thread(target=submit)
    submitter.start()
    assert half.wait(WAIT_SECONDS)
    crew.workers.close()
    submitter.join(WAIT_SECONDS)
    for i, future in enumerate(futures):
        ended = error(future)
        if ended is None:
            np.testing.assert_array_equal(result(future), vector_of(query(i, 1 + i % 4)))
        else:
            assert isinstance(ended, DrainingError)
    assert set(crew.ends.values()) == {1}
    assert len(futures) == len(crew.ends) == 400
