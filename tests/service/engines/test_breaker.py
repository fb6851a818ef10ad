"""The breaker by itself, whose waits a test steps through."""

from __future__ import annotations

import queue

import pytest
from manual_clock import ManualClock

from service.engines.breaker import Breaker, State
from snapshot.errors import CollectionAlteredError, EngineLateError, EngineUnavailableError

DOWN = EngineUnavailableError("down")
LATE = EngineLateError("no answer within 50 ms")
SECONDS = 30.0


class Stepped:
    """A breaker whose probe gives what the test says, at the moment when it says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._go: queue.Queue[bool] = queue.Queue()
        self._answers: queue.Queue[Exception | None] = queue.Queue()
        self.probing: queue.Queue[State] = queue.Queue()
        self.clock = ManualClock()
        self.breaker = Breaker("engine", self._probe, probe_seconds=1.5, wait=self._wait, clock=self.clock)

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self._go.get(timeout=SECONDS)

    def _probe(self) -> None:
        self.probing.put(self.breaker.state)
        answer = self._answers.get(timeout=SECONDS)
        if answer is not None:
            raise answer

    def late(self, count: int, every_ms: float) -> None:
        for _ in range(count):
            self.breaker.late(LATE)
            self.clock.advance_ms(every_ms)

    def probe(self, answer: Exception | None) -> None:
        self._go.put(False)
        assert self.probing.get(timeout=SECONDS) is State.HALF_OPEN
        with pytest.raises(EngineUnavailableError):
            self.breaker.check()  # nobody goes through beside the probe
        self._answers.put(answer)

    def stop(self) -> None:
        self._go.put(True)
        self.join()

    def join(self) -> None:
        thread = self.breaker._thread
        if thread is not None:
            thread.join(SECONDS)
            assert not thread.is_alive()


def test_it_opens_after_three_failures_in_a_row_and_closes_when_a_probe_succeeds() -> None:
    stepped = Stepped()
    breaker = stepped.breaker
    for error in (DOWN, DOWN):
        breaker.failed(error)
        breaker.check()
    breaker.succeeded()
    for _ in range(3):
        breaker.check()
        breaker.failed(DOWN)
    assert breaker.state is State.OPEN
    with pytest.raises(EngineUnavailableError, match=r"engine is not asked for now \(down\); it is tried every 1\.5 s"):
        breaker.check()
    stepped.probe(EngineUnavailableError("still down"))
    stepped.probe(None)
    stepped.join()
    assert breaker.state is State.CLOSED
    breaker.check()
    assert stepped.waits == [1.5, 1.5]
    breaker.failed(DOWN)
    breaker.check()  # it counts from the beginning


def test_late_answers_open_it_where_none_has_come_in_time_for_seconds() -> None:
    stepped = Stepped()
    stepped.late(60, every_ms=50)  # three failures: each more than a second of nothing else
    assert stepped.breaker.state is State.CLOSED
    stepped.late(10, every_ms=50)
    assert stepped.breaker.state is State.OPEN
    with pytest.raises(EngineUnavailableError, match=r"not asked for now \(no answer within 50 ms\)"):
        stepped.breaker.check()
    stepped.stop()


def test_late_answers_among_others_few_or_at_one_moment_open_nothing() -> None:
    stepped = Stepped()
    for _ in range(50):
        stepped.late(20, every_ms=45)
        stepped.breaker.succeeded()
    stepped.late(1000, every_ms=0)
    stepped.breaker.succeeded()
    stepped.late(12, every_ms=60_000)
    assert stepped.breaker.state is State.CLOSED


def test_an_answer_that_cannot_be_right_opens_it_at_once() -> None:
    stepped = Stepped()
    stepped.breaker.failed(CollectionAlteredError("rows of others"), at_once=True)
    assert stepped.breaker.state is State.OPEN
    with pytest.raises(EngineUnavailableError, match="rows of others"):
        stepped.breaker.check()
    stepped.stop()


def test_a_probe_that_meets_the_unforeseen_is_not_the_last() -> None:
    stepped = Stepped()
    stepped.breaker.failed(DOWN, at_once=True)
    stepped.probe(ValueError("not enough values to unpack"))
    stepped.probe(None)
    stepped.join()
    assert stepped.breaker.state is State.CLOSED


def test_what_fails_while_it_is_open_starts_no_second_probe() -> None:
    stepped = Stepped()
    for _ in range(3):
        stepped.breaker.failed(DOWN)
    thread = stepped.breaker._thread
    stepped.breaker.failed(DOWN)  # of a request that had been let through before
    assert stepped.breaker._thread is thread
    stepped.stop()


def test_once_stopped_it_probes_nothing() -> None:
    probed: list[int] = []
    breaker = Breaker("engine", lambda: probed.append(1), probe_seconds=0.001)
    breaker.stop()
    for _ in range(5):
        breaker.failed(DOWN)
    assert breaker._thread is None
    assert probed == []
