"""Stages are timed, and not begun for nobody or too late."""

import pytest
from manual_clock import ManualClock

from service.deadline import Deadline
from service.errors import CallerGoneError, DeadlineExceededError
from service.walk import Caller, Walk


def walk_of(clock: ManualClock, budget_ms: float = 100, caller: Caller | None = None) -> Walk:
    return Walk(Deadline.after(budget_ms, clock(), clock), caller or Caller())


def test_every_millisecond_is_booked_on_a_stage() -> None:
    clock = ManualClock()
    walk = walk_of(clock)
    clock.advance_ms(5)
    for stage, milliseconds in (("tokenize", 2), ("encode", 3), ("tokenize", 4), ("search", 1)):
        walk.enter(stage)
        clock.advance_ms(milliseconds)
    assert walk.timings_ms() == {"queue": 5.0, "tokenize": 6.0, "encode": 3.0, "total": 15.0}
    assert walk.timings_ms(under_way=True) == {"queue": 5.0, "tokenize": 6.0, "encode": 3.0, "search": 1.0, "total": 15.0}
    assert walk.pass_to("reply") == pytest.approx(1)
    clock.advance_ms(7)
    walk.pass_to("reply")
    assert sum(walk.spent_ms.values()) == pytest.approx(22)
    assert walk.service_ms() == pytest.approx(10)


def test_a_stage_is_not_begun_after_the_deadline() -> None:
    clock = ManualClock()
    walk = walk_of(clock, budget_ms=10)
    walk.enter("tokenize")
    clock.advance_ms(11)
    with pytest.raises(DeadlineExceededError, match="does not reach encode") as caught:
        walk.enter("encode")
    assert caught.value.stage == "encode"
    assert caught.value.spent_ms == {"queue": 0.0, "tokenize": 11.0, "total": 11.0}
    assert walk.stage == "tokenize"


def test_a_stage_is_not_begun_for_a_caller_who_is_gone() -> None:
    caller = Caller()
    walk = walk_of(ManualClock(), caller=caller)
    caller.gone = True
    with pytest.raises(CallerGoneError) as caught:
        walk.enter("search")
    assert caught.value.stage == "search"
