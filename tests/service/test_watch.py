"""When a swap is undone: by how much worse answers are than before it, and only for a while."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from service.budgets import Kind, Tally
from service.watch import Vitals, Watch, WatchOptions

OPTIONS = WatchOptions(seconds=60, max_error_share=0.01, max_late_share=0.05, min_answers=100)


class Bench:
    def __init__(self, options: WatchOptions = OPTIONS) -> None:
        self.clock, self.vitals = ManualClock(), Vitals(0, 0, 0)
        self.watch = Watch(options, lambda: self.vitals, self.clock)

    def answer(self, answers: int, errors: int = 0, late: int = 0, seconds: float = 1.0, octave: int = 0) -> str | None:
        before, kind = self.vitals, Kind("/search", octave)
        tally = before.kinds.get(kind, Tally(0, 0))
        kinds = {**before.kinds, kind: Tally(tally.answers + answers, tally.late + late)}
        self.vitals = Vitals(before.answers + answers, before.errors + errors, before.late + late, 0.0, kinds)
        self.clock.advance_ms(seconds * 1000)
        return self.watch.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_undone_before_there_was_a_swap(bench: Bench) -> None:
    assert bench.answer(1000, errors=1000) is None


def test_as_good_as_before_is_good(bench: Bench) -> None:
    bench.answer(0)
    bench.answer(1000, errors=30, late=100)
    bench.watch.begin()
    for _ in range(59):
        assert bench.answer(1000, errors=39, late=140) is None


@pytest.mark.parametrize(("errors", "late", "name"), [(20, 0, "errors"), (0, 70, "late"), (1000, 1000, "errors")])
def test_more_than_the_limit_beyond_before_is_undone_with_the_figures(bench: Bench, errors: int, late: int, name: str) -> None:
    bench.answer(1000)
    bench.watch.begin()
    reason = bench.answer(1000, errors=errors, late=late)
    assert reason is not None
    assert reason.startswith(f"{name} ")
    assert "of 1000 answers since the swap, 0.0% before" in reason


@pytest.mark.parametrize(("errors", "late"), [(12, 0), (0, 55)])
def test_what_may_be_chance_is_not_undone(bench: Bench, errors: int, late: int) -> None:
    bench.answer(1000)
    bench.watch.begin()
    assert bench.answer(1000, errors=errors, late=late) is None
    for _ in range(19):
        bench.answer(1000, errors=errors, late=late, seconds=0.1)
    assert bench.answer(1000, errors=errors, late=late) is not None, "the same share of many is beyond doubt"


def test_one_caller_with_a_budget_that_nobody_keeps_undoes_nothing(bench: Bench) -> None:
    bench.answer(0)
    bench.answer(1000)
    bench.watch.begin()
    assert bench.answer(1000) is None
    assert bench.answer(100_000, late=100_000, octave=-6) is None
    reason = bench.answer(1000, late=300)
    assert reason is not None, "nor does it hide that others are late"
    assert reason.startswith("late 15.0% of 2000 answers")


def test_callers_with_short_budgets_are_compared_with_those_before(bench: Bench) -> None:
    bench.answer(0)
    bench.answer(1000, late=500, octave=-3)
    bench.watch.begin()
    assert bench.answer(1000, late=520, octave=-3) is None
    assert bench.answer(1000, late=900, octave=-3) is not None


def test_more_of_those_who_were_late_before_is_no_worse_snapshot(bench: Bench) -> None:
    bench.answer(0)
    bench.answer(1000)
    bench.answer(1000, late=1000, octave=-3)
    bench.watch.begin()
    assert bench.answer(9000, late=9000, octave=-3) is None


def test_few_answers_say_nothing(bench: Bench) -> None:
    bench.watch.begin()
    assert bench.answer(99, errors=99) is None
    assert bench.answer(1, errors=1) is not None


def test_the_watch_ends_with_its_time(bench: Bench) -> None:
    bench.watch.begin()
    assert bench.answer(1000, seconds=59) is None
    assert bench.watch.on
    assert bench.answer(1000, errors=1000, seconds=2) is None
    assert not bench.watch.on
    assert bench.answer(1000, errors=1000) is None


def test_only_the_latest_while_before_the_swap_counts(bench: Bench) -> None:
    bench.answer(10_000, errors=10_000)
    for _ in range(100):
        bench.answer(10)
    bench.watch.begin()
    assert bench.answer(1000, errors=100) is not None


def test_what_was_before_the_swap_is_not_counted_after_it(bench: Bench) -> None:
    bench.answer(1000, errors=1000)
    bench.watch.begin()
    for _ in range(10):
        assert bench.answer(1000) is None


def test_memory_of_the_past_is_bounded(bench: Bench) -> None:
    for _ in range(1000):
        bench.answer(1)
    assert len(bench.watch._kept) <= 61


def test_no_time_is_no_watch() -> None:
    bench = Bench(WatchOptions(seconds=0))
    bench.watch.begin()
    assert bench.answer(1000, errors=1000) is None
