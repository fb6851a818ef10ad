"""What the history tells a start: what was undone, and what may serve in place of what is wanted."""

from __future__ import annotations

import pytest

from service.formers import MOST, formers, undone
from snapshot.history import Event, Outcome, make_event

ME, OTHER = "service on me", "service on another"


def activated(*names: str, forced: bool = False) -> list[Event]:
    return [
        make_event("activate", name, "ann", f"for {name}", previous=before, forced=forced)
        for before, name in zip([None, *names], names, strict=False)
    ]


def outcome(name: str, came: Outcome, who: str = ME) -> Event:
    return make_event("outcome", name, who, f"{name} {came}", outcome=came)


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ([], False),
        ([outcome("b", "served")], False),
        ([outcome("b", "served"), outcome("b", "rolled_back")], True),
        ([outcome("b", "rolled_back"), outcome("a", "served")], True),
        ([outcome("b", "rolled_back"), outcome("b", "refused")], True),
        # another instance was slower to serve it
        ([outcome("b", "rolled_back"), outcome("b", "served", OTHER)], True),
        ([outcome("b", "served"), outcome("b", "rolled_back", OTHER)], True),
        ([outcome("b", "rolled_back", OTHER), outcome("b", "served")], False),
        ([outcome("b", "rolled_back"), *activated("b")], False),
    ],
)
def test_what_was_undone_since_it_was_last_wanted(outcomes: list[Event], found: bool) -> None:
    assert (undone([*activated("a", "b"), *outcomes], "b", ME) is not None) is found


def test_the_reason_is_the_one_that_was_written() -> None:
    event = undone([*activated("a", "b"), outcome("b", "rolled_back")], "b", ME)
    assert event is not None
    assert event.why == "b rolled_back"


def test_formers_are_what_a_rollback_would_go_to_if_it_was_served() -> None:
    names = ["a", "b", "c", "d"]
    events = [*activated(*names, forced=True), outcome("a", "served"), outcome("b", "refused"), outcome("c", "served")]
    found = formers(events, "d")
    assert [(one.snapshot, one.action, one.forced, one.why) for one in found] == [
        ("c", "rollback", True, "for c"),
        ("a", "rollback", True, "for a"),
    ]


def test_what_operators_left_by_a_rollback_is_no_former() -> None:
    events = [*activated("a", "b"), outcome("a", "served"), outcome("b", "served")]
    events += [make_event("rollback", "a", "ann", previous="b"), make_event("activate", "c", "ann", previous="a")]
    assert [one.snapshot for one in formers(events, "c")] == ["a"]


def test_no_more_formers_than_a_start_may_try() -> None:
    names = [f"s{number}" for number in range(MOST + 3)]
    events = [*activated(*names), *(outcome(name, "served") for name in names)]
    assert [one.snapshot for one in formers(events, names[-1])] == names[-2 : -2 - MOST : -1]


def test_without_a_history_there_is_none() -> None:
    assert formers([], "a") == []
    assert formers([], None) == []
