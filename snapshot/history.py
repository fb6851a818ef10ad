"""history.jsonl: who wanted what, when, instead of what and why, and what came of it; append only, the latest last."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import TypeAdapter, ValidationError

from snapshot.errors import RegistryError
from snapshot.files import open_plain

Action = Literal["publish", "activate", "rollback", "pin", "unpin", "remove", "outcome"]
Outcome = Literal["served", "refused", "rolled_back"]
UNREADABLE = "?"
"""In place of an id: CURRENT was garbage, or had been removed."""
MOST_REASON = 500
"""Characters of what an operator says, as in the service's API."""
_MOST_DETAIL = 4000
"""Characters of what a service says: its gate may name several figures. JSON makes 12 bytes of one at most."""
_MOST_NAME = 200


@dataclass(frozen=True, slots=True)
class Event:
    """A line of history.jsonl. Later versions may add fields, and read lines without them.

    Attributes:
        at: UTC, ISO 8601. The order of events is that of the lines: clocks are set back.
        who: a person, or a service, which writes the outcomes.
        action: what was done; ``outcome`` is what a service made of an activation.
        snapshot: whose it is; what is wanted from now on, for activate and rollback.
        previous: what was wanted until then; "?" where that could not be told.
        why: in the operator's words, at most 500 characters; for an outcome, the service's reason.
        forced: the operator overrules the gate.
        outcome: of the action ``outcome``.
    """

    at: str
    who: str
    action: Action
    snapshot: str
    previous: str | None = None
    why: str = ""
    forced: bool = False
    outcome: Outcome | None = None


_EVENT = TypeAdapter(Event)
_BLOCK_BYTES = 1 << 16
_SWITCHES = (b'"activate"', b'"rollback"')


def make_event(
    action: Action,
    snapshot: str,
    who: str | None,
    why: str = "",
    *,
    previous: str | None = None,
    forced: bool = False,
    outcome: Outcome | None = None,
) -> Event:
    """An event of now, by ``who`` or else by the user who runs this process; texts are made such that they can be read back."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    reason = _readable(why, _MOST_DETAIL if action == "outcome" else MOST_REASON)
    return Event(at, _readable(who or _user(), _MOST_NAME), action, snapshot, previous, reason, forced, outcome)


class History:
    """The file at ``path``, which need not exist. Appending needs the registry's lock, reading does not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def events(self) -> list[Event]:
        """What was done, oldest first. Lines that are no events (torn by a kill, of a later version) are left out.

        Raises:
            RegistryError: the file cannot be read.
        """
        return [event for event in map(_parse, self._lines()) if event is not None]

    def last_switch(self, current: str) -> Event | None:
        """The latest switch to ``current`` that took effect (see ``happened``).

        Reads and parses no more than it must: the file grows for years, and a swap asks twenty times a second.
        """
        after: str | None = current
        for line in self._lines_backwards():
            event = _parse(line) if any(action in line for action in _SWITCHES) else None
            if event is None or event.action not in ("activate", "rollback"):
                continue
            if event.snapshot == current and _took_effect(event, after):
                return event
            after = event.previous
        return None

    def append(self, event: Event) -> None:
        """Durably add a line; OSError, and the file as it was, where that cannot be done."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            try:
                _write_all(descriptor, b"\n" * torn + json.dumps(asdict(event)).encode() + b"\n")
                os.fsync(descriptor)
            except OSError:  # a full disk takes part of a line
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _lines(self) -> list[bytes]:
        with self._reading(), open_plain(self._path) as handle:
            return handle.read().splitlines()
        return []

    def _lines_backwards(self) -> Iterator[bytes]:
        with self._reading(), open_plain(self._path) as handle:
            yield from _backwards(handle)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A file that is not there has no lines."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise RegistryError(f"{self._path}: cannot be read ({error.strerror}); move it away") from error


def _backwards(handle: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, the last one first."""
    at, begun = handle.seek(0, os.SEEK_END), b""
    while at > 0:
        start = max(0, at - _BLOCK_BYTES)
        handle.seek(start)
        begun, *lines = (handle.read(at - start) + begun).split(b"\n")
        yield from reversed(lines)
        at = start
    yield begun


def activations(events: Sequence[Event], current: str | None) -> list[str]:
    """What was wanted, oldest first and ``current`` (or UNREADABLE) last: activate pushes, rollback goes back to where it went.

    An event is written before CURRENT is, so that a kill between the two leaves an event that did not happen. What did
    is told by what the next event found, or by ``current``; that is also how a change by hand is noticed.
    """
    switches = [event for event in events if event.action in ("activate", "rollback")]
    found = [*(event.previous for event in switches), current]
    stack = [found[0]] if found[0] is not None else []
    for event, real, after in zip(switches, happened(switches, current), found[1:], strict=True):
        if real and event.action == "rollback" and event.snapshot in stack:
            del stack[len(stack) - stack[::-1].index(event.snapshot) :]
        elif real and stack[-1:] != [event.snapshot]:
            stack.append(event.snapshot)
        if (stack or after) and stack[-1:] != [after or UNREADABLE]:
            stack.append(after or UNREADABLE)
    return stack


def in_order(events: Iterable[Event]) -> dict[str, int]:
    """Places of the published snapshots, by id: mending one that is damaged makes it no newer, unless gc had removed it."""
    places: dict[str, int] = {}
    removed: set[str] = set()
    for number, event in enumerate(events):
        if event.action == "remove":  # or so it was meant: a kill may have left it there
            removed.add(event.snapshot)
        elif event.action == "publish" and (event.snapshot not in places or event.snapshot in removed):
            places[event.snapshot] = number
            removed.discard(event.snapshot)
    return places


def declined(events: Iterable[Event]) -> set[str]:
    """Ids that no service took over when they were last wanted, or that were taken back; not those of which nothing is known."""
    outcomes: dict[str, Outcome] = {}
    for event in events:
        if event.action in ("activate", "rollback"):
            outcomes.pop(event.snapshot, None)
        elif event.outcome is not None and (event.outcome != "refused" or event.snapshot not in outcomes):
            outcomes[event.snapshot] = event.outcome
    return {snapshot_id for snapshot_id, outcome in outcomes.items() if outcome != "served"}


def last_served(events: Iterable[Event]) -> set[str]:
    """What each service that can write here said last that it serves; after a rollback of its own, what it said before."""
    serving: dict[str, tuple[str, str | None]] = {}
    for event in events:
        now, before = serving.get(event.who, (None, None))
        if event.outcome == "served" and event.snapshot != now:
            serving[event.who] = event.snapshot, now
        elif event.outcome == "rolled_back" and event.snapshot == now and before is not None:
            serving[event.who] = before, None
    return {now for now, _ in serving.values()}


def happened(events: Sequence[Event], current: str | None) -> Iterator[bool]:
    """For each event, whether it took effect; False for one that a kill or a full disk cut short."""
    after = current
    effects: list[bool] = []
    for event in reversed(events):
        if event.action in ("activate", "rollback"):
            effects.append(_took_effect(event, after))
            after = event.previous
        else:
            effects.append(True)
    return reversed(effects)


def force_of(events: Sequence[Event], current: str | None, snapshot: str) -> str | None:
    """The reason for which ``snapshot`` was last wanted by force; None where it was last wanted without, or never."""
    real = [event for event, effective in zip(events, happened(events, current), strict=True) if effective]
    switches = (event for event in reversed(real) if event.action in ("activate", "rollback") and event.snapshot == snapshot)
    last = next(switches, None)
    return last.why if last is not None and last.forced else None


def _took_effect(event: Event, after: str | None) -> bool:
    """``after`` is what was wanted next: what the next event found, or what is wanted now."""
    return after == event.snapshot or after != event.previous


def _readable(text: str, limit: int) -> str:
    """Not longer, and without what an argument that is no UTF-8 leaves: who reads the JSON would refuse the whole event."""
    whole = text.encode(errors="replace").decode()
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def _parse(line: bytes) -> Event | None:
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        return None


def _write_all(descriptor: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())
