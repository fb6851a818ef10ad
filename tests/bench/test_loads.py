"""Loads against a server and a clock that are made up: nothing sleeps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.client import CLOSED, Answer
from tests.bench.loads import GRACE_SECONDS, Planned, arriving, closed_loop, merged, open_loop, poisson, steady


class FakeServer:
    """A wire whose server takes ``service`` seconds for each request, one after the other, and is its own clock.

    Attributes:
        stall: (from, to) in seconds, in which it does nothing.
    """

    def __init__(self, service: float, stall: tuple[float, float] = (0.0, 0.0), dead: bool = False) -> None:
        self.now = 100.0
        self._start = self.now
        self._service = service
        self._stall = stall
        self._dead = dead
        self._free_at = 0.0
        self._done: list[tuple[float, int]] = []
        self.most_under_way = 0

    def clock(self) -> float:
        return self.now

    def send(self, connection: int, request: bytes) -> None:
        if self._dead:
            return
        begin = max(self.now - self._start, self._free_at)
        if self._stall[0] <= begin < self._stall[1]:
            begin = self._stall[1]
        self._free_at = begin + self._service
        self._done.append((self._free_at + self._start, connection))
        self.most_under_way = max(self.most_under_way, len(self._done))

    def wait(self, seconds: float) -> list[Answer]:
        end = self.now + max(seconds, 1e-6)  # no clock stands still
        first = min((at for at, _ in self._done), default=end)
        self.now = max(self.now, min(end, first))
        ready = [(at, connection) for at, connection in self._done if at <= self.now]
        self._done = [entry for entry in self._done if entry not in ready]
        return [Answer(connection, 200, b"", b"") for _, connection in ready]


def latencies(load):
    return np.array([outcome.latency_ms for outcome in load.outcomes])


def test_poisson_has_the_rate_and_the_spread_of_a_poisson_process_and_repeats_with_its_seed():
    plan = poisson([b"a", b"b"], per_second=1000, seconds=20, seed=3)
    gaps = np.diff([planned.at for planned in plan])
    assert len(plan) == pytest.approx(20_000, rel=0.03)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)
    assert plan[-1].at < 20
    assert [planned.request for planned in plan[:4]] == [b"a", b"b", b"a", b"b"]
    assert plan == poisson([b"a", b"b"], per_second=1000, seconds=20, seed=3)
    assert plan != poisson([b"a", b"b"], per_second=1000, seconds=20, seed=4)


def test_plans_merge_in_the_order_of_time():
    plan = merged(steady(b"s", 10, 1, "livez"), poisson([b"p"], 50, 1, seed=0))
    assert [planned.at for planned in plan] == sorted(planned.at for planned in plan)
    assert sum(planned.label == "livez" for planned in plan) == 10


def test_a_stall_counts_for_every_request_that_was_due_in_it():
    """With one connection, a closed loop would have sent one request into the second of silence; a hundred were due."""
    server = FakeServer(service=0.001, stall=(1.0, 2.0))
    load = open_loop(server, 1, steady(b"", per_second=100, seconds=3, label="search"), clock=server.clock)
    assert len(load.outcomes) == 300
    assert (latencies(load) > 500).sum() == pytest.approx(50, abs=8)
    assert latencies(load).max() == pytest.approx(1000, rel=0.05)
    assert max(outcome.answer_ms for outcome in load.outcomes[150:]) < 20  # sent late, answered at once: the client's view


def test_an_unhurried_server_shows_its_service_time():
    server = FakeServer(service=0.002)
    load = open_loop(server, 4, steady(b"", per_second=10, seconds=1, label="search"), clock=server.clock)
    assert latencies(load) == pytest.approx(2.0, rel=1e-3)
    assert all(outcome.sent == pytest.approx(outcome.due, abs=1e-4) for outcome in load.outcomes)


def test_connections_bound_what_is_under_way():
    server = FakeServer(service=0.1)
    load = open_loop(server, 3, steady(b"", per_second=100, seconds=0.2, label="search"), clock=server.clock)
    assert server.most_under_way == 3
    assert len(load.outcomes) == 20


def test_requests_without_an_answer_are_counted_and_took_as_long_as_they_were_waited_for():
    server = FakeServer(service=0.1, dead=True)
    load = open_loop(server, 2, steady(b"", per_second=4, seconds=1, label="search"), clock=server.clock)
    assert [outcome.status for outcome in load.outcomes] == [CLOSED] * 4
    assert latencies(load).min() >= GRACE_SECONDS * 1e3


def test_a_closed_loop_keeps_every_connection_busy_until_the_time_is_over():
    server = FakeServer(service=0.01)
    load = closed_loop(server, 4, [b"a", b"b"], seconds=1.0, clock=server.clock)
    assert len(load.outcomes) == pytest.approx(103, abs=2)  # what is under way at the end is answered
    assert np.median(latencies(load)) == pytest.approx(40, rel=0.05)
    assert server.most_under_way == 4


def test_latency_counts_from_when_a_request_was_due():
    planned = Planned(1.0, b"", "search")
    server = FakeServer(service=0.5)
    first, second = open_loop(server, 1, [planned, planned], clock=server.clock).outcomes
    assert (first.latency_ms, second.latency_ms) == pytest.approx((500, 1000), rel=1e-3)
    assert second.answer_ms == pytest.approx(500, rel=1e-3)


def test_a_load_that_is_over_sends_nothing_more_and_waits_for_what_is_under_way():
    server = FakeServer(service=0.3)
    plan = steady(b"s", per_second=10, seconds=10, label="search")
    outcomes = list(arriving(server, 8, plan, server.clock, lambda: server.now > 101.05))
    assert [outcome.due for outcome in outcomes] == pytest.approx([number / 10 for number in range(11)])
    assert all(outcome.status == 200 for outcome in outcomes)
