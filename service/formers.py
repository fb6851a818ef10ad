"""What the registry's history tells a start: whether what is wanted was undone before, and what may serve in its place.

Pure: it is told the events, and says what it makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from snapshot.history import Event, Outcome, activations
from snapshot.registry import Desire

MOST = 3
"""Tried at a start one after the other: each costs reading all of its files."""


def undone(events: Sequence[Event], wanted: str, service: str) -> Event | None:
    """The line that says that ``wanted`` was rolled back by itself since somebody last wanted it; None where it was not.

    The latest line counts, and ``service``'s own latest: another instance may have begun to serve it after this one undid it.
    """
    since = max((number for number, event in enumerate(events) if _switches_to(event, wanted)), default=0)
    lines = [event for event in events[since:] if event.snapshot == wanted and event.outcome in ("served", "rolled_back")]
    latest = [*lines[-1:], *[event for event in lines if event.who == service][-1:]]
    return next((event for event in latest if event.outcome == "rolled_back"), None)


def formers(events: Sequence[Event], wanted: str | None) -> list[Desire]:
    """What was wanted before, and was served the last time that it was tried; the latest first.

    To serve one of them is going back to it: by force, if it was last wanted by force.
    """
    outcomes: dict[str, Outcome | None] = {event.snapshot: event.outcome for event in events if event.action == "outcome"}
    before = dict.fromkeys(reversed(activations(events, wanted)))  # in order, each once
    return [_back_to(events, one) for one in before if one != wanted and outcomes.get(one) == "served"][:MOST]


def _back_to(events: Sequence[Event], snapshot: str) -> Desire:
    switch = next((event for event in reversed(events) if _switches_to(event, snapshot)), None)
    if switch is None:
        return Desire(snapshot, action="rollback")
    return Desire(snapshot, switch.forced, switch.why, switch.who, switch.at, "rollback")


def _switches_to(event: Event, snapshot: str) -> bool:
    return event.action in ("activate", "rollback") and event.snapshot == snapshot
