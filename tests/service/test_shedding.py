"""Overload in the log: two lines, whatever lies between them."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock
from structlog.testing import capture_logs

from service.shedding import Shedding

QUIET_SECONDS = 5.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def shedding(clock: ManualClock) -> Shedding:
    return Shedding(clock, QUIET_SECONDS)


def test_an_overload_is_two_lines_with_exact_counts(shedding: Shedding, clock: ManualClock) -> None:
    shed, refused = 0, {}
    with capture_logs() as lines:
        shedding.observe({"overloaded": 0})
        for _ in range(100):
            clock.advance_ms(100)
            shed += 7
            refused = {"overloaded": shed, "batch": shed // 7}
            shedding.observe(refused)
        for _ in range(51):
            clock.advance_ms(100)
            shedding.observe(refused)
    assert [(line["event"], line["log_level"]) for line in lines] == [("shedding", "warning"), ("shedding_ended", "warning")]
    assert lines[0]["causes"] == {"overloaded": 7, "batch": 1}
    assert (lines[1]["refused"], lines[1]["seconds"]) == ({"overloaded": 700, "batch": 100}, 9.9)


def test_a_pause_shorter_than_the_quiet_time_does_not_end_it(shedding: Shedding, clock: ManualClock) -> None:
    with capture_logs() as lines:
        for count in range(10):
            shedding.observe({"overloaded": count})
            clock.advance_ms(QUIET_SECONDS * 900)
            shedding.observe({"overloaded": count})
    assert [line["event"] for line in lines] == ["shedding"]


def test_each_overload_counts_its_own(shedding: Shedding, clock: ManualClock) -> None:
    with capture_logs() as lines:
        for count in (3, 10):
            shedding.observe({"overloaded": count})
            clock.advance_ms(QUIET_SECONDS * 1000)
            shedding.observe({"overloaded": count})
    assert [line["refused"] for line in lines if line["event"] == "shedding_ended"] == [{"overloaded": 3}, {"overloaded": 7}]


def test_the_end_of_the_process_ends_it_and_quiet_says_nothing(shedding: Shedding) -> None:
    with capture_logs() as lines:
        shedding.observe({"overloaded": 0})
        shedding.end()
        shedding.observe({"overloaded": 2})
        shedding.end()
        shedding.end()
    assert [line["event"] for line in lines] == ["shedding", "shedding_ended"]
