"""The token bucket, on a manual clock."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from service.keys.bucket import Bucket


def test_a_burst_goes_through_and_what_comes_next_waits_for_the_rate() -> None:
    clock = ManualClock()
    bucket = Bucket(4.0, 3, clock)
    assert [bucket.take() for _ in range(3)] == [0.0] * 3
    assert bucket.take() == 250.0
    clock.advance_ms(100)
    assert math.isclose(bucket.take(), 150.0)
    clock.advance_ms(150)
    assert bucket.take() == 0.0
    assert bucket.take() == 250.0


def test_it_never_holds_more_than_a_burst() -> None:
    clock = ManualClock()
    bucket = Bucket(1000.0, 2, clock)
    clock.advance_ms(3_600_000)
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, True, True]


def test_what_is_owed_is_waited_for() -> None:
    clock = ManualClock()
    bucket = Bucket(10.0, 5, clock)
    assert bucket.take() == 0.0
    bucket.owe(99)
    assert math.isclose(bucket.take(), (1 + 95) / 10 * 1000)
    clock.advance_ms(9_601)
    assert bucket.take() == 0.0


def test_who_waits_as_long_as_it_is_told_gets_one() -> None:
    clock = ManualClock()
    bucket = Bucket(7.0, 1, clock)
    bucket.take()
    clock.advance_ms(math.ceil(bucket.take()))
    assert bucket.take() == 0.0


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 50), waits_ms=st.lists(st.floats(0, 2000), max_size=60))
def test_over_any_time_no_more_is_given_than_burst_and_rate_allow(rate: float, burst: int, waits_ms: list[float]) -> None:
    clock = ManualClock(0.0)
    bucket, taken = Bucket(rate, burst, clock), 0
    for wait_ms in waits_ms:
        clock.advance_ms(wait_ms)
        taken += bucket.take() == 0.0
        assert taken <= burst + rate * clock() + 1e-6
