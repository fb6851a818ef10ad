"""Budgets: which one wins, and when it is spent."""

import pytest
from manual_clock import ManualClock

from service.deadline import Deadline, budget_ms


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], 1000),
        ([None, None], 1000),
        ([50], 50),
        ([None, 80, 50], 50),
        ([5000, None], 5000),
        ([20_000], 10_000),
        ([20_000, 30], 30),
    ],
)
def test_the_least_budget_wins_within_the_servers(asked: list[float | None], expected: float) -> None:
    assert budget_ms(asked, default_ms=1000, max_ms=10_000) == expected


def test_a_deadline_passes_when_its_budget_is_spent() -> None:
    clock = ManualClock()
    deadline = Deadline.after(50, clock(), clock)
    clock.advance_ms(20)
    assert deadline.remaining_ms() == pytest.approx(30)
    assert not deadline.passed()
    clock.advance_ms(31)
    assert deadline.remaining_ms() == pytest.approx(-1)
    assert deadline.passed()
    assert deadline.budget_ms == pytest.approx(50)


def test_time_before_the_deadline_was_known_counts() -> None:
    clock = ManualClock()
    started = clock()
    clock.advance_ms(40)
    assert Deadline.after(50, started, clock).remaining_ms() == pytest.approx(10)


@pytest.mark.parametrize(("cost_ms", "allowed"), [(0, True), (29, True), (31, False)])
def test_a_deadline_allows_what_ends_before_it(cost_ms: float, allowed: bool) -> None:
    clock = ManualClock()
    deadline = Deadline.after(50, clock(), clock)
    clock.advance_ms(20)
    assert deadline.allows(cost_ms) is allowed


def test_a_deadline_that_has_passed_allows_nothing() -> None:
    clock = ManualClock()
    deadline = Deadline.after(50, clock(), clock)
    clock.advance_ms(51)
    assert not deadline.allows(0)
