"""The number at the door, fed by hand; against a whole service it is tried in test_limits_simulation."""

import pytest

from service.limits import FixedLimit, GradientLimit, Limit, Outcome, make_limit

WINDOW = 50
BUDGET_MS = 20.0


def feed(limit: Limit, queue_ms: float, windows: int = 1, in_flight: int | None = None, outcome: Outcome = Outcome.DONE) -> None:
    """Requests of 5 ms that waited for ``queue_ms``, as many in flight as are let in unless said."""
    for _ in range(windows * WINDOW):
        limit.observe(5.0, queue_ms, BUDGET_MS, limit.value if in_flight is None else in_flight, outcome)


def test_a_fixed_limit_learns_nothing() -> None:
    limit = FixedLimit(64)
    limit.used_up()
    feed(limit, 1e6, windows=10)
    assert limit.value == 64


@pytest.mark.parametrize(("kind", "expected"), [("adaptive", GradientLimit), ("fixed", FixedLimit)])
def test_the_settings_choose(kind: str, expected: type) -> None:
    limit = make_limit(kind, workers=2, most=10)
    assert isinstance(limit, expected)
    assert limit.value == 10


def test_a_standing_queue_lowers_the_limit_and_never_below_one_more_than_the_workers() -> None:
    limit = GradientLimit(workers=8, most=64)
    before = limit.value
    feed(limit, 50.0)
    assert limit.value < before
    feed(limit, 1e6, windows=50)
    assert limit.value == 9


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.DROPPED])
def test_a_wait_counts_whatever_became_of_the_request(outcome: Outcome) -> None:
    limit = GradientLimit(workers=2, most=64)
    feed(limit, 0.0, in_flight=1)
    before = limit.value
    feed(limit, 50.0, outcome=outcome)
    assert limit.value < before


def test_a_request_that_failed_says_nothing() -> None:
    limit = GradientLimit(workers=2, most=64)
    before = limit.value
    feed(limit, 1e6, windows=50, outcome=Outcome.FAILED)
    assert limit.value == before


def lowered() -> GradientLimit:
    """A limit that has met a standing queue."""
    limit = GradientLimit(workers=2, most=64)
    feed(limit, 50.0, windows=5)
    assert limit.value < 20
    return limit


def test_a_limit_that_is_used_up_without_a_queue_grows_to_the_most() -> None:
    limit = lowered()
    before = limit.value
    feed(limit, 0.0)
    assert before < limit.value < 64
    feed(limit, 0.0, windows=50)
    assert limit.value == 64


def test_a_limit_that_is_not_used_up_stays() -> None:
    limit = lowered()
    before = limit.value
    feed(limit, 0.0, windows=50, in_flight=before - 1)
    assert limit.value == before


def test_a_limit_whose_part_is_used_up_without_a_queue_grows_to_the_most() -> None:
    limit = lowered()
    for _ in range(50):
        limit.used_up()
        feed(limit, 0.0, in_flight=1)
    assert limit.value == 64
    feed(limit, 50.0, windows=5)
    limit.used_up()
    before = limit.value
    feed(limit, 1e6)
    assert limit.value <= before  # a queue that stays counts more


def test_a_part_that_was_used_up_once_is_forgotten_with_its_window() -> None:
    limit = lowered()
    limit.used_up()
    feed(limit, 0.0, in_flight=1)
    before = limit.value
    feed(limit, 0.0, windows=50, in_flight=1)
    assert limit.value == before


def test_a_burst_that_drains_is_no_overload() -> None:
    limit = GradientLimit(workers=2, most=64)
    before = limit.value
    for _ in range(20):
        for request in range(WINDOW):
            limit.observe(5.0, 100.0 if request else 0.0, BUDGET_MS, before - 1, Outcome.DONE)
    assert limit.value == before


def test_one_terrible_window_does_not_undo_more_than_half() -> None:
    limit = GradientLimit(workers=8, most=64)
    feed(limit, 2000.0)
    assert limit.value >= 32


@pytest.mark.parametrize(("workers", "most", "least"), [(16, 64, 17), (2, 1, 1), (8, 4, 4), (1, 2, 2)])
def test_the_most_wins_over_the_workers(workers: int, most: int, least: int) -> None:
    limit = GradientLimit(workers, most)
    assert limit.value <= most
    feed(limit, 1e6, windows=50)
    assert limit.value == least


def test_a_queue_that_makes_nobody_late_is_left_alone() -> None:
    limit = GradientLimit(workers=2, most=64)
    for _ in range(20 * WINDOW):
        limit.observe(5.0, 100.0, 1000.0, limit.value, Outcome.DONE)
    assert limit.value == 64
