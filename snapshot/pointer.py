"""CURRENT in an object store: which snapshot operators want served, and the record of who wanted it.

An activation is first written down as an object of its own, below ``.history/<id>/``, under a name that nobody else
chooses: no activation is lost, whatever happens to CURRENT. Then CURRENT is written on the condition that it is still the
one that was read, so that of two who activate at once one is told that it was not heard.

Where the store ignores conditions (found out by creating an object that exists), CURRENT is read once more after it was
written: who does not find their own id there is told the same. Two writes that cross between one's reading and the
other's writing can then still both seem to have worked; the last of them holds, as with a folder, CURRENT names a
snapshot that is complete in either case since it moves last, and both are on record.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter, ValidationError

from snapshot.errors import ReasonMissingError, RemoteConflictError, UnknownSnapshotError
from snapshot.history import Event, make_event
from snapshot.layout import MANIFEST
from snapshot.manifest import MAX_MANIFEST_BYTES
from snapshot.paths import is_id
from snapshot.registry import Desire
from snapshot.stores import CURRENT, Store, Stored

if TYPE_CHECKING:
    from obstore import PutMode

HISTORY = ".history"
"""No snapshot's id: those begin with a letter or a digit."""
_MAX_CURRENT_BYTES = 1024
_MAX_EVENT_BYTES = 64 * 1024
_MOST_LINES = 32
_EVENT = TypeAdapter(Event)


@dataclass(frozen=True, slots=True)
class Seen:
    """The pointer at a moment; equal to another one where nobody has activated anything in between.

    Attributes:
        snapshot: the id that is wanted, or None.
        mark: of this writing of it.
    """

    snapshot: str | None
    mark: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of an activation.

    Attributes:
        previous: what was wanted until then.
        conditional: the store would have refused the write, had somebody else moved the pointer meanwhile.
    """

    previous: str | None
    conditional: bool


def look(store: Store) -> Seen:
    """The pointer, in one request; UnknownSnapshotError where it cannot be an id."""
    stored = store.read(CURRENT, _MAX_CURRENT_BYTES)
    mark = "" if stored is None else f"{stored.modified_at.isoformat()} {stored.version}"
    return Seen(_id(store, stored), mark)


def read_current(store: Store) -> str | None:
    """The id in CURRENT, or None where nobody has said; UnknownSnapshotError where it cannot be an id."""
    return _id(store, store.read(CURRENT, _MAX_CURRENT_BYTES))


def read_desire(store: Store) -> Desire | None:
    """What operators want served, with what the latest record of that id says about it."""
    current = read_current(store)
    event = None if current is None else _latest(store, current)
    if current is None or event is None:
        return None if current is None else Desire(current)
    return Desire(current, event.forced, event.why, event.who, event.at, event.action)


def move(store: Store, snapshot_id: str, why: str, who: str | None, *, force: bool = False) -> Moved:
    """Declare the snapshot to serve.

    Raises:
        UnknownSnapshotError: the store has no such snapshot.
        ReasonMissingError: forced without a reason.
        RemoteConflictError: somebody else moved the pointer meanwhile; theirs holds.
        RemoteError: the object store.
    """
    if force and not why.strip():
        raise ReasonMissingError("overruling the gate needs a reason; say it with: --why TEXT")
    if not is_id(snapshot_id) or store.read(f"{snapshot_id}/{MANIFEST}", MAX_MANIFEST_BYTES) is None:
        raise UnknownSnapshotError(
            f"{store.where}: no snapshot {snapshot_id[:200]!r}; push it with: python -m snapshot push ID URL"
        )
    seen = store.read(CURRENT, _MAX_CURRENT_BYTES)
    previous = seen.content.decode(errors="replace").strip()[:128] if seen else None
    event = make_event("activate", snapshot_id, who, why, previous=previous, forced=force)
    conditional = _record(store, event)
    try:
        store.write(CURRENT, _pointer(snapshot_id, seen), _unchanged(seen) if conditional else "overwrite")
    except RemoteConflictError as error:
        raise _overtaken(store, snapshot_id) from error
    if not conditional and read_current(store) != snapshot_id:
        raise _overtaken(store, snapshot_id)
    return Moved(previous, conditional)


def _record(store: Store, event: Event) -> bool:
    """Write the event down; whether the store refuses to create what exists, which the second attempt finds out."""
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")  # stores tell whole seconds
    key = f"{HISTORY}/{event.snapshot}/{at}-{uuid.uuid4().hex[:12]}.json"
    content = json.dumps(asdict(event)).encode()
    store.write(key, content, "create")
    try:
        store.write(key, content, "create")
    except RemoteConflictError:
        return True
    return False


def _pointer(snapshot_id: str, seen: Stored | None) -> bytes:
    """What CURRENT is to be, told from what it was by the ends of its lines, which whoever reads it leaves out.

    Stores tell when an object was written in whole seconds, and its versions by what is in it: wanting the same snapshot
    once more within a second would be nothing new to those who follow.
    """
    before = b"" if seen is None else seen.content
    lines = (len(before) - len(before.rstrip(b"\n"))) % _MOST_LINES + 1
    return snapshot_id.encode() + b"\n" * lines


def _unchanged(seen: Stored | None) -> PutMode:
    """The condition that CURRENT is still what was read."""
    return "create" if seen is None else cast("PutMode", seen.version)


def _overtaken(store: Store, snapshot_id: str) -> RemoteConflictError:
    return RemoteConflictError(
        f"{store.of(CURRENT)}: somebody else activated {read_current(store)} meanwhile, and {snapshot_id} is not active; "
        "if it shall be, activate it again"
    )


def _latest(store: Store, snapshot_id: str) -> Event | None:
    """By the store's clock, since those of operators differ; within one of its seconds, by theirs.

    What is no event, or too large for one, counts for nothing: it must not keep those who follow from CURRENT.
    """
    written = store.records(f"{HISTORY}/{snapshot_id}", _MAX_EVENT_BYTES)
    for key in sorted(written, key=lambda one: (written[one], one), reverse=True):
        found = store.read(key, _MAX_EVENT_BYTES)
        try:
            return _EVENT.validate_json(found.content) if found else None
        except ValidationError:
            continue
    return None


def _id(store: Store, stored: Stored | None) -> str | None:
    text = "" if stored is None else stored.content.decode(errors="replace").strip()
    if text and not is_id(text):
        raise UnknownSnapshotError(f"{store.of(CURRENT)}: {text[:200]!r} is not a snapshot id; activate a snapshot again")
    return text or None
