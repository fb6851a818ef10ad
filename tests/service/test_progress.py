"""The timeline of a swap, from the states that it goes through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from manual_clock import ManualClock

from service.memory import Freed
from service.progress import Observers, Progress, Timeline
from service.swap import SwapState

START = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def progress(clock: ManualClock) -> Progress:
    return Progress(clock, lambda: START + timedelta(seconds=clock.now - 100))


def shown(timeline: Timeline) -> list[tuple[str, float, bool]]:
    return [(step.name, round(step.seconds, 6), step.running) for step in timeline.steps]


def test_steps_have_their_durations_and_the_running_one_its_time_so_far(clock: ManualClock, progress: Progress) -> None:
    assert (progress.timeline.running, progress.timeline.began_at, progress.timeline.steps) == (False, None, ())
    progress.entered(SwapState.VERIFYING)
    clock.advance_ms(1500)
    progress.entered(SwapState.OPENING)
    clock.advance_ms(250)
    timeline = progress.timeline
    assert shown(timeline) == [("verifying", 1.5, False), ("opening", 0.25, True)]
    assert (timeline.running, timeline.began_at, timeline.since) == (True, START, START + timedelta(seconds=1.5))


def test_an_ended_swap_stays_to_be_looked_at(clock: ManualClock, progress: Progress) -> None:
    progress.entered(SwapState.VERIFYING)
    clock.advance_ms(10)
    progress.replaced(SimpleNamespace(id="new"), "old")
    progress.entered(SwapState.SERVING)
    clock.advance_ms(5000)
    timeline = progress.timeline
    assert shown(timeline) == [("verifying", 0.01, False)]
    assert (timeline.snapshot, timeline.running) == ("new", False)


def test_what_was_still_open_has_no_steps(clock: ManualClock, progress: Progress) -> None:
    progress.entered(SwapState.VERIFYING)
    progress.entered(SwapState.SERVING)
    clock.advance_ms(1000)
    progress.returned(SimpleNamespace(id="former"), "left")
    timeline = progress.timeline
    assert (timeline.snapshot, timeline.steps, timeline.began_at) == ("former", (), START + timedelta(seconds=1))


@pytest.mark.parametrize("between", [[SwapState.FAILED], [SwapState.SERVING], [SwapState.OPENING]], ids=str)
def test_the_next_attempt_begins_anew(clock: ManualClock, progress: Progress, between: list[SwapState]) -> None:
    for state in (SwapState.VERIFYING, *between):
        progress.entered(state)
        clock.advance_ms(1000)
    progress.failed("first", "hash_mismatch")
    progress.entered(SwapState.VERIFYING)
    clock.advance_ms(20)
    timeline = progress.timeline
    assert shown(timeline) == [("verifying", 0.02, True)]
    assert (timeline.snapshot, timeline.began_at) == (None, START + timedelta(seconds=2))


def test_what_failed_before_its_first_step_has_none_of_the_attempt_before(clock: ManualClock, progress: Progress) -> None:
    progress.entered(SwapState.VERIFYING)
    progress.replaced(SimpleNamespace(id="before"), None)
    progress.entered(SwapState.SERVING)
    clock.advance_ms(3000)
    progress.entered(SwapState.FAILED)
    progress.failed("gone", "snapshot_unknown")
    timeline = progress.timeline
    assert (timeline.snapshot, timeline.steps, timeline.began_at) == ("gone", (), START + timedelta(seconds=3))


def test_a_registry_that_cannot_be_read_is_no_attempt(progress: Progress) -> None:
    progress.entered(SwapState.VERIFYING)
    progress.replaced(SimpleNamespace(id="before"), None)
    progress.entered(SwapState.SERVING)
    progress.failed(None, "registry_error")
    assert (progress.timeline.snapshot, len(progress.timeline.steps)) == ("before", 1)


def test_several_observers_hear_the_same_in_their_order(progress: Progress) -> None:
    heard: list[tuple[object, ...]] = []

    class Hears:
        def entered(self, state: SwapState) -> None:
            heard.append(("entered", state))

        def replaced(self, new: object, old: str | None) -> None:
            heard.append(("replaced", new, old))

        def failed(self, snapshot: str | None, code: str) -> None:
            heard.append(("failed", snapshot, code))

        def closed(self, snapshot: str, freed: object) -> None:
            heard.append(("closed", snapshot, freed))

        def returned(self, to: object, left: str) -> None:
            heard.append(("returned", to, left))

    both = Observers(Hears(), Hears())
    both.entered(SwapState.OPENING)
    both.replaced(SimpleNamespace(id="new"), "old")
    both.failed("new", "code")
    both.closed("old", Freed(2, 1))
    both.returned(SimpleNamespace(id="old"), "new")
    assert heard[::2] == heard[1::2]
    assert [event[0] for event in heard[::2]] == ["entered", "replaced", "failed", "closed", "returned"]
