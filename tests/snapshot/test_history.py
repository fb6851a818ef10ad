"""history.jsonl: old lines parse, torn ones cost only themselves, and what never happened is told apart."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from snapshot.errors import RegistryError
from snapshot.history import UNREADABLE, Action, Event, History, Outcome, activations, happened, last_served, make_event
from snapshot.registry import Registry

OLD = {"at": "2025-01-01T00:00:00+00:00", "who": "ops", "action": "activate", "snapshot": "a", "previous": None, "why": "first"}


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


def switch(snapshot: str, previous: str | None, action: Action = "activate") -> Event:
    return Event("2025-01-01T00:00:00+00:00", "ops", action, snapshot, previous)


def test_what_is_appended_is_read_back_in_order(history: History) -> None:
    events = [
        make_event("activate", "a", "ops", "for a\nreason", forced=True),
        make_event("outcome", "a", None, "slow", outcome="refused"),
    ]
    for event in events:
        history.append(event)
    assert history.events() == events
    assert events[1].who


@pytest.mark.parametrize(
    ("said", "kept"),
    [("caf\udce9 broken", "caf? broken"), ("z" * 501, "z" * 499 + "…"), ("ä" * 500, "ä" * 500), ("\U0001f600", "\U0001f600")],
)
def test_whatever_an_operator_says_the_event_is_read_back(history: History, said: str, kept: str) -> None:
    event = make_event("activate", "a", said, said, forced=True)
    history.append(event)
    assert history.events() == [event]
    assert (event.why, event.forced) == (kept, True)
    assert event.who.startswith(kept[:100])


def test_what_a_service_says_is_kept_at_some_length(history: History) -> None:
    history.append(make_event("outcome", "a", None, "z" * 3000, outcome="refused"))
    history.append(make_event("outcome", "a", None, "\U0001f600" * 100_000, outcome="refused"))
    assert [len(event.why) for event in history.events()] == [3000, 4000]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"at": 1}',
        b"[" * 10_000,
        b'{"at":"","who":"","action":"explode","snapshot":"a"}',
    ],
)
def test_lines_that_are_no_events_are_left_out(history: History, tmp_path: Path, line: bytes) -> None:
    lines = [json.dumps(OLD).encode(), line, json.dumps({**OLD, "who": "b", "of a later version": 1}).encode()]
    (tmp_path / "history.jsonl").write_bytes(b"\n".join(lines))
    assert [event.who for event in history.events()] == ["ops", "b"]
    assert history.events()[0] == Event(**OLD)
    history.append(make_event("pin", "a", "c"))
    assert [event.who for event in history.events()] == ["ops", "b", "c"]


def test_a_history_that_cannot_be_read_is_named(history: History, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(RegistryError, match=r"history.jsonl: cannot be read \(not a plain file\)"):
        history.events()


def test_the_last_switch_to_a_snapshot_is_found(history: History) -> None:
    for event in (switch("a", None), switch("b", "a"), make_event("outcome", "a", "x", outcome="served"), switch("aa", "b")):
        history.append(event)
    assert history.last_switch("a") == switch("a", None)
    assert history.last_switch("c") is None


@pytest.mark.parametrize(
    ("events", "current", "stack", "real"),
    [
        ([], None, [], []),
        ([], "by hand", ["by hand"], []),
        ([switch("a", None), switch("b", "a")], "b", ["a", "b"], [True, True]),
        # a kill between the event and CURRENT
        ([switch("a", None), switch("b", "a")], "a", ["a"], [True, False]),
        ([switch("a", None), switch("b", "a"), switch("c", "a")], "c", ["a", "c"], [True, False, True]),
        ([switch("a", None), switch("b", "a"), switch("a", "b", "rollback")], "b", ["a", "b"], [True, True, False]),
        # back and further back
        ([switch("a", None), switch("b", "a"), switch("c", "b"), switch("b", "c", "rollback")], "b", ["a", "b"], [True] * 4),
        # changed by hand after b had been wanted
        ([switch("a", None), switch("b", "a")], "c", ["a", "b", "c"], [True, True]),
        ([switch("a", None), switch("b", "a"), switch("d", "c")], "d", ["a", "b", "c", "d"], [True] * 3),
        # the same one again
        ([switch("a", None), switch("a", "a")], "a", ["a"], [True, True]),
        # CURRENT was garbage, or removed
        ([switch("a", None), switch("b", "a"), switch("c", None)], "c", ["a", "b", UNREADABLE, "c"], [True] * 3),
        ([switch("a", None)], UNREADABLE, ["a", UNREADABLE], [True]),
        ([switch("a", None), switch("b", UNREADABLE)], "b", ["a", UNREADABLE, "b"], [True, True]),
        ([switch("a", None)], None, [], [False]),
    ],
)
def test_what_was_wanted_is_told_by_what_the_next_event_found(
    events: list[Event], current: str | None, stack: list[str], real: list[bool]
) -> None:
    assert activations(events, current) == stack
    assert list(happened(events, current)) == real


def test_whether_a_snapshot_has_served_is_what_was_written_last_of_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert not registry.has_served("a")
    registry.record_outcome("a", "served", "")
    registry.record_outcome("b", "refused", "gate_recall")
    assert registry.has_served("a")
    assert not registry.has_served("b")
    registry.record_outcome("a", "rolled_back", "late answers")
    assert not registry.has_served("a")


def test_the_last_switch_is_one_that_took_effect(history: History) -> None:
    for event in (switch("a", None), switch("b", "a"), replace(switch("a", "b"), forced=True), switch("c", "b")):
        history.append(event)  # the third was killed before CURRENT was written: the fourth found b
    found = history.last_switch("a")
    assert found is not None
    assert not found.forced
    assert history.last_switch("d") is None


def test_a_switch_of_which_nobody_knows_better_counts(history: History) -> None:
    history.append(replace(switch("a", None), forced=True))
    history.append(make_event("outcome", "a", None, '"activate"', outcome="served"))
    found = history.last_switch("a")
    assert found is not None
    assert found.forced


def test_the_last_switch_is_found_wherever_blocks_of_the_file_end(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        history.append(switch(f"s{number % 7}", f"s{(number - 1) % 7}" if number else None))
        history.append(make_event("outcome", f"s{number % 7}", "service", "ü" * number, outcome="served"))
    asked = [f"s{number}" for number in range(8)]
    whole = [history.last_switch(one) for one in asked]
    assert whole[5] == switch("s5", "s4")
    for size in (1, 7, 64, 333):
        monkeypatch.setattr("snapshot.history._BLOCK_BYTES", size)
        assert [history.last_switch(one) for one in asked] == whole


def test_of_a_long_history_only_the_end_is_read_for_the_last_switch(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap asks twenty times a second, and the file of a registry that is swapped every hour has megabytes after a year."""
    history.append(switch("a", None))
    with history._path.open("ab") as handle:
        handle.write(b'{"action": "outcome"}\n' * 50_000)
    history.append(switch("b", "a"))
    sizes: list[int] = []

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            sizes.append(len(content))
            return content

    monkeypatch.setattr("snapshot.history.open_plain", lambda path: Counting(io.FileIO(path)))
    assert history.last_switch("b") == switch("b", "a")
    assert 0 < sum(sizes) < 100_000


@pytest.mark.parametrize(
    ("said", "serving"),
    [
        ([], set()),
        ([("one", "a", "served"), ("one", "b", "served")], {"b"}),
        ([("one", "a", "served"), ("two", "b", "served")], {"a", "b"}),
        ([("one", "a", "served"), ("one", "b", "refused")], {"a"}),
        ([("one", "a", "served"), ("one", "b", "served"), ("one", "b", "rolled_back")], {"a"}),
        ([("one", "a", "served"), ("one", "b", "served"), ("one", "b", "served"), ("one", "b", "rolled_back")], {"a"}),
        ([("one", "a", "served"), ("one", "a", "rolled_back")], {"a"}),
    ],
)
def test_what_serves_is_what_each_service_said_last(said: list[tuple[str, str, Outcome]], serving: set[str]) -> None:
    events = [make_event("outcome", snapshot, who, "", outcome=outcome) for who, snapshot, outcome in said]
    assert last_served([switch("c", None), *events]) == serving
