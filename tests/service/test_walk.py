"""Stages are timed, and not begun for nobody or too late."""

import pytest
from manual_clock import ManualClock

from service.deadline import Deadline
from service.errors import CallerGoneError, DeadlineExceededError
from service.walk import Caller, Walk


def walk_of(clock: ManualClock, budget_ms: float = 100, caller: Caller | None = None) -> Walk:
    return Walk(Deadline.after(budget_ms, clock(), clock), caller or Caller())


def test_time_is_booked_on_its_stage() -> None:
    clock = ManualClock()
    walk = walk_of(clock)
    clock.advance_ms(5)
    walk.leave_queue()
    for milliseconds in (2, 3):
        with walk.stage("encode"):
            clock.advance_ms(milliseconds)
    clock.advance_ms(1)
    assert walk.timings_ms() == {"queue": 5.0, "encode": 5.0, "total": 11.0}
    assert walk.service_ms() == pytest.approx(5)


def test_a_stage_is_not_begun_after_the_deadline() -> None:
    clock = ManualClock()
    walk = walk_of(clock, budget_ms=10)
    walk.leave_queue()
    with walk.stage("tokenize"):
        clock.advance_ms(11)
    with pytest.raises(DeadlineExceededError, match="does not reach encode") as caught, walk.stage("encode"):
        pytest.fail("the stage was begun")
    assert caught.value.stage == "encode"
    assert caught.value.spent_ms == {"queue": 0.0, "tokenize": 11.0, "total": 11.0}


def test_a_stage_is_not_begun_for_a_caller_who_is_gone() -> None:
    caller = Caller()
    walk = walk_of(ManualClock(), caller=caller)
    caller.gone = True
    with pytest.raises(CallerGoneError) as caught, walk.stage("search"):
        pytest.fail("the stage was begun")
    assert caught.value.stage == "search"
