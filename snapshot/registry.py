"""A folder of snapshots, the one that operators want served, and who wanted what, when and why."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapshot import gc, signing
from snapshot.errors import (
    DiskFullError,
    NothingPublishedError,
    ReasonMissingError,
    RegistryError,
    SnapshotError,
    UnknownSnapshotError,
    UnsafePathError,
)
from snapshot.files import read_small, write_text
from snapshot.history import UNREADABLE, Action, Event, History, Outcome, activations, declined, force_of, in_order, make_event
from snapshot.layout import Layout, RegistryLayout
from snapshot.manifest import Manifest, read_manifest
from snapshot.paths import is_id, refuse_snapshot
from snapshot.publish import publish

_SHOWN = 3
"""Of the ids that there are, where another one was asked for."""
_LOCK_WAIT_SECONDS = 30.0
"""Nothing slow is done under the lock: who holds it for so long has been stopped, or its mount is gone."""
_LOCK_LOOK_SECONDS = 0.005
FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_CURRENT_BYTES = 1024
_MAX_PINS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Desire:
    """What operators want served.

    Attributes:
        snapshot: the id in CURRENT; it may name nothing.
        forced: whoever wanted it overrules the gate.
        why: in their words; empty, like ``who`` and ``at``, where CURRENT was changed by hand.
        who: a person or a service.
        at: UTC, ISO 8601.
        action: how it came to be wanted.
    """

    snapshot: str
    forced: bool = False
    why: str = ""
    who: str = ""
    at: str = ""
    action: Action = "activate"


class Registry:
    """The registry in the folder ``root``. Readers need no lock; writers take one, for milliseconds."""

    def __init__(self, root: Path, lock_wait_seconds: float = _LOCK_WAIT_SECONDS) -> None:
        self.root = root
        self._layout = RegistryLayout(root)
        self._history = History(self._layout.history)
        self._lock_wait_seconds = lock_wait_seconds

    def layout(self, snapshot_id: str) -> Layout:
        """Where the snapshot lies.

        Raises:
            UnknownSnapshotError: the id is malformed, or no sealed snapshot has it.
            UnsafePathError: its folder is a symbolic link.
        """
        if not is_id(snapshot_id):
            raise UnknownSnapshotError(
                f"{snapshot_id[:200]!r} is not a snapshot id; see: python -m snapshot list --registry {self.root}"
            )
        layout = self._layout.snapshot(snapshot_id)
        with self._reading():
            is_link = layout.root.is_symlink()
        if is_link:
            raise UnsafePathError(f"{layout.root}: a symbolic link; a snapshot is a folder of the registry: publish it here")
        if not _is_sealed(layout):
            raise UnknownSnapshotError(f"{self.root}: no snapshot {snapshot_id!r}; {self._there_are()}")
        return layout

    def ids(self) -> list[str]:
        """Ids of the sealed snapshots in the order in which they were published, the latest last.

        Those that nobody published here (copied by hand) come first, by id. Ids begin with a time, but clocks are set back.
        RegistryError where the folder cannot be read.
        """
        with self._reading():
            if not self.root.exists():
                return []
            found = {path.name for path in self.root.iterdir() if is_id(path.name) and _is_sealed(Layout(path))}
        places = in_order(self._history.events())
        return sorted(found, key=lambda snapshot_id: (places.get(snapshot_id, -1), snapshot_id))

    def read(self, snapshot_id: str) -> Manifest:
        """The manifest of one snapshot; ManifestError or UnknownSnapshotError where there is none to read."""
        return read_manifest(self.layout(snapshot_id).manifest)

    def manifests(self) -> list[Manifest]:
        """Manifests that this software can read, in the order of ``ids``; the others are named by ``unreadable``."""
        return [manifest for manifest in map(self._try_read, self.ids()) if isinstance(manifest, Manifest)]

    def unreadable(self) -> dict[str, str]:
        """Ids whose manifest cannot be read, with the reason; not those that gc has removed at this moment."""
        read = {snapshot_id: self._try_read(snapshot_id) for snapshot_id in self.ids()}
        failed = {snapshot_id: found for snapshot_id, found in read.items() if isinstance(found, SnapshotError)}
        return {snapshot_id: str(found) for snapshot_id, found in failed.items() if (self.root / snapshot_id).is_dir()}

    def current(self) -> str | None:
        """The id that operators want served (it may name nothing), or None where nobody has said so.

        Raises:
            UnknownSnapshotError: what CURRENT says cannot be an id.
            RegistryError: CURRENT cannot be read.
        """
        path = self._layout.current
        again = f"activate a snapshot again: python -m snapshot activate ID --registry {self.root}"
        try:
            text = read_small(path, _MAX_CURRENT_BYTES).decode().strip()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise RegistryError(f"{self.root}: not a folder; name the folder of snapshots with --registry") from error
        except UnicodeDecodeError as error:
            raise RegistryError(f"{path}: cannot be read ({error.reason}); {again}") from error
        except OSError as error:
            kind = UnknownSnapshotError if error.errno == errno.EFBIG else RegistryError
            raise kind(f"{path}: cannot be read ({error.strerror}); {again}") from error
        if text and not is_id(text):
            raise UnknownSnapshotError(f"{path}: {text[:200]!r} is not a snapshot id; {again}")
        return text or None

    def found(self) -> str | None:
        """As ``current``, but UNREADABLE and no error where CURRENT is garbage: activating is how that is repaired."""
        try:
            return self.current()
        except RegistryError:
            return UNREADABLE

    def desired(self) -> Desire | None:
        """What operators want served, with what the history says about it; None where nobody has said so.

        Raises:
            RegistryError: as ``current``, or the history cannot be read.
        """
        current = self.current()  # before the history, into which it is written first
        if current is None:
            return None
        event = self._history.last_switch(current)
        if event is None:
            return Desire(current)
        return Desire(current, event.forced, event.why, event.who, event.at, event.action)

    def history(self) -> list[Event]:
        """What was done, oldest first. A torn line (a kill while appending) is left out."""
        return self._history.events()

    def offered(self) -> str | None:
        """The latest snapshot that no service has declined; None where there is none."""
        passed = declined(self.history())
        return next((one for one in reversed(self.ids()) if one not in passed), None)

    def before(self) -> str | None:
        """Where a rollback would go: what was wanted before the current one, was not declined then, and is still there."""
        events = self.history()
        *older, current = activations(events, self.found()) or [UNREADABLE]
        passed = declined(events) | {current}
        there = (one for one in reversed(older) if one not in passed and isinstance(self._try_read(one), Manifest))
        return next(there, None)

    def publish(self, folder: Path, who: str | None = None) -> Manifest:
        """Verify a sealed snapshot and bring it in under its id.

        Publishing the same one again changes nothing, unless what is there is damaged: then it is put in its place. Files
        are hard-linked where that is possible: sealed files never change in place.

        Raises:
            SnapshotError: the folder is not an intact snapshot.
            RegistryError: the registry cannot be written.
        """
        return publish(self, folder, who)

    def activate(self, snapshot_id: str, why: str, who: str | None = None, force: bool = False) -> Manifest:
        """Declare a snapshot as the one to serve. Services follow; this does not wait for them.

        Args:
            snapshot_id: which one.
            why: kept in the history.
            who: kept in the history; the user who runs this process unless given.
            force: services shall serve it whatever their gate finds, as far as a gate can be overruled.

        Raises:
            UnknownSnapshotError, ManifestError: there is no such snapshot, or its manifest cannot be read.
            ReasonMissingError: forced without a reason.
        """
        return self._switch("activate", lambda: snapshot_id, why, who, force)

    def rollback(self, why: str, who: str | None = None, force: bool = False) -> Manifest:
        """Activate the snapshot that was active before the current one and is still there; by force if it last was so.

        Raises:
            NothingPublishedError, ReasonMissingError: nothing was active before; forced without a reason.
        """
        return self._switch("rollback", self._before_or_raise, why, who, force)

    def _before_or_raise(self) -> str:
        before = self.before()
        if before is None:
            see = f"python -m snapshot history --registry {self.root}"
            raise NothingPublishedError(f"{self.root}: nothing was active before; see: {see}")
        return before

    def _switch(self, action: Action, choose: Callable[[], str], why: str, who: str | None, force: bool) -> Manifest:
        """``choose`` is called under the lock: two operators who roll back at once must not both leave from the same place.

        The event is written first: whoever reads the new CURRENT must find who forced it, and why.
        """
        if force and not why.strip():
            raise ReasonMissingError("overruling the gate needs a reason; say it with: --why TEXT")
        if not self.root.is_dir():
            raise UnknownSnapshotError(f"{self.root}: no such folder; {self._make_one()}")
        with self.locked():
            snapshot_id = choose()
            manifest = self.read(snapshot_id)
            previous = self.found()
            before = force_of(self.history(), previous, snapshot_id) if action == "rollback" else None
            forced, reason = force or before is not None, why or before or ""
            self._history.append(make_event(action, snapshot_id, who, reason, previous=previous, forced=forced))
            write_text(self._layout.current, f"{snapshot_id}\n")
        return manifest

    def record_outcome(self, snapshot: str, outcome: Outcome, detail: str, who: str | None = None) -> bool:
        """Write into the history what came of an activation; False, and never an error, where that cannot be done."""
        if not self.root.is_dir():
            return False
        try:
            with self.locked():
                self._history.append(make_event("outcome", snapshot, who, detail, outcome=outcome))
        except RegistryError:
            return False
        return True

    def has_served(self, snapshot: str) -> bool:
        """Whether the last that services wrote about a snapshot is that they serve it."""
        return self._last_outcome(snapshot) == "served"

    def was_refused(self, snapshot: str) -> bool:
        """Whether the last that services wrote about a snapshot is that they do not serve it, or no longer."""
        return self._last_outcome(snapshot) in ("refused", "rolled_back")

    def _last_outcome(self, snapshot: str) -> Outcome | None:
        written = (event for event in reversed(self.history()) if event.action == "outcome" and event.snapshot == snapshot)
        return next((event.outcome for event in written), None)

    def pins(self) -> frozenset[str]:
        """Ids that are never removed; RegistryError where that cannot be read."""
        try:
            return frozenset(read_small(self._layout.pins, _MAX_PINS_BYTES).decode().split())
        except FileNotFoundError:
            return frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self._layout.pins}: cannot be read ({error}); remove it, and pin again") from error

    def pin(self, snapshot_id: str, why: str = "", who: str | None = None) -> None:
        """Keep a snapshot from being removed; UnknownSnapshotError where there is none."""

        def add(pins: frozenset[str]) -> frozenset[str]:
            self.layout(snapshot_id)  # gc may have been faster
            return pins | {snapshot_id}

        if not self.root.is_dir():
            raise UnknownSnapshotError(f"{self.root}: no such folder; {self._make_one()}")
        self._set_pins("pin", snapshot_id, add, why, who)

    def unpin(self, snapshot_id: str, why: str = "", who: str | None = None) -> None:
        """Let a snapshot be removed again; nothing happens where it was not pinned."""
        self._set_pins("unpin", snapshot_id, lambda pins: pins - {snapshot_id}, why, who)

    def _set_pins(
        self, action: Action, snapshot_id: str, change: Callable[[frozenset[str]], frozenset[str]], why: str, who: str | None
    ) -> None:
        """``change`` is called under the lock."""
        with self.locked():
            before = self.pins()
            after = change(before)
            if after != before:
                write_text(self._layout.pins, "".join(f"{one}\n" for one in sorted(after)))
                self._history.append(make_event(action, snapshot_id, who, why))

    def gc(self, keep: int, dry_run: bool = False, who: str | None = None) -> gc.Collected:
        """Remove all but the ``keep`` latest, and never what is wanted, open, pinned, or where a rollback would go.

        Raises:
            RegistryError: what is wanted or pinned cannot be read, or the registry cannot be written.
        """
        return gc.collect(self, keep, dry_run=dry_run, who=who)

    def sign(self, snapshot_id: str, private_key: Path) -> bytes:
        """Sign a snapshot's manifest; returns the public key. KeyFileError where the key cannot be used."""
        folder = self.layout(snapshot_id).root
        with self.locked():
            return signing.sign(folder, private_key)

    def record(self, event: Event) -> None:
        """Append to the history; the lock must be held."""
        self._history.append(event)

    def _there_are(self) -> str:
        known = self.ids()
        if not known:
            return self._make_one()
        latest = ", ".join(known[: -_SHOWN - 1 : -1])
        return f"the latest of {len(known)}: {latest}; see: python -m snapshot list --registry {self.root}"

    def _make_one(self) -> str:
        return f"publish one with: python -m offline run RECIPE --registry {self.root}"

    def _try_read(self, snapshot_id: str) -> Manifest | SnapshotError:
        try:
            return self.read(snapshot_id)
        except SnapshotError as error:
            return error

    @contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        """Alone among those who write.

        Args:
            make: the folder, if it is missing.

        Raises:
            RegistryError: the registry cannot be written, or somebody has held the lock for too long.
        """
        with self.writing():
            if make:
                self.root.mkdir(parents=True, exist_ok=True)
            refuse_snapshot(self.root)
            descriptor = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                self._take(descriptor)
                yield
            finally:
                os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        give_up = time.monotonic() + self._lock_wait_seconds
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= give_up:
                    wait = f"{self._lock_wait_seconds:.0f} s"
                    raise RegistryError(
                        f"{self._layout.lock}: held by another process for {wait}; look for one that hangs"
                    ) from error
                time.sleep(_LOCK_LOOK_SECONDS)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """OSErrors as a RegistryError."""
        try:
            yield
        except OSError as error:
            raise RegistryError(
                f"{self.root}: cannot be read ({error.strerror or error}); name the folder of snapshots, and check its owner"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """OSErrors of the registry's folder as a RegistryError."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.root, error) from error


def unwritable(root: Path, error: OSError) -> RegistryError:
    """What to say where a registry's folder cannot be written: that the disk is full, or something else."""
    where = f"{root}: cannot be written ({error.strerror or error})"
    if error.errno in FULL:
        return DiskFullError(f"{where}; make room, for example with: python -m snapshot gc --keep 3 --registry {root}")
    return RegistryError(f"{where}; check the folder and its owner")


def _is_sealed(layout: Layout) -> bool:
    """Whether a manifest is there. Where nobody may look, True: then it is listed as one that cannot be read."""
    try:
        return layout.manifest.is_file()
    except PermissionError:
        return True
