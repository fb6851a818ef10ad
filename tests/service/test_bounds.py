"""What the gate's own process may take grows with the snapshot; a deadline that waits while the process is stopped."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from service.bounds import Bounds, Deadline
from snapshot.errors import GateDiedError


def test_a_larger_snapshot_may_take_more() -> None:
    small, large = Bounds.of(0), Bounds.of(100_000_000_000)
    assert small.cpu_seconds >= 60 * 10
    assert large.cpu_seconds > small.cpu_seconds + 3600
    assert large.data_bytes > small.data_bytes + 100_000_000_000
    assert large.seconds > large.cpu_seconds


def test_a_process_that_has_ended_is_not_told() -> None:
    Bounds.of(0).impose(2**22 + 1)


def test_time_in_which_it_was_stopped_does_not_count() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    clock.advance_ms(9_000)
    deadline.rested(5)
    clock.advance_ms(5_000)
    deadline.check()
    clock.advance_ms(1_000)
    with pytest.raises(GateDiedError, match="no verdict in 10 s"):
        deadline.check()
