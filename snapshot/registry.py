"""A folder of snapshots, the one that operators want served, and who wanted what, when and why."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from snapshot.errors import NothingPublishedError, RegistryError, SnapshotError, UnknownSnapshotError
from snapshot.files import fsync_file, fsync_folder, write_text
from snapshot.layout import Layout, RegistryLayout
from snapshot.manifest import ID_PATTERN, Manifest, read_manifest
from snapshot.seal import files_of
from snapshot.verify import verify

Action = Literal["publish", "activate", "rollback"]
_MAKE_ONE = "publish one with: python -m offline run RECIPE"


@dataclass(frozen=True, slots=True)
class Event:
    """A line of history.jsonl."""

    at: str
    who: str
    action: Action
    snapshot: str
    previous: str | None
    why: str


class Registry:
    """The registry in the folder ``root``. Readers need no lock; writers take one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = RegistryLayout(root)

    def layout(self, snapshot_id: str) -> Layout:
        """Where the snapshot lies.

        Raises:
            UnknownSnapshotError: the id is malformed, or no sealed snapshot has it.
        """
        if not re.fullmatch(ID_PATTERN, snapshot_id):
            raise UnknownSnapshotError(f"{snapshot_id!r} is not a snapshot id; see: python -m snapshot list")
        layout = self._layout.snapshot(snapshot_id)
        if not layout.manifest.is_file():
            known = self.ids()
            remedy = f"activate another one with: python -m snapshot activate {known[-1]}" if known else _MAKE_ONE
            raise UnknownSnapshotError(f"{self.root}: no snapshot {snapshot_id!r}; {remedy}")
        return layout

    def ids(self) -> list[str]:
        """Ids of the sealed snapshots, oldest first (an id begins with its time)."""
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if re.fullmatch(ID_PATTERN, path.name)]
        return sorted(path.name for path in folders if Layout(path).manifest.is_file())

    def read(self, snapshot_id: str) -> Manifest:
        """The manifest of one snapshot; ManifestError or UnknownSnapshotError where there is none to read."""
        return read_manifest(self.layout(snapshot_id).manifest)

    def manifests(self) -> list[Manifest]:
        """Manifests that this software can read, oldest first; the others are named by ``unreadable``."""
        return [manifest for manifest in map(self._try_read, self.ids()) if isinstance(manifest, Manifest)]

    def unreadable(self) -> dict[str, str]:
        """Ids whose manifest cannot be read, with the reason."""
        read = {snapshot_id: self._try_read(snapshot_id) for snapshot_id in self.ids()}
        return {snapshot_id: str(found) for snapshot_id, found in read.items() if isinstance(found, SnapshotError)}

    def current(self) -> str | None:
        """The id that operators want served, as written (it may name nothing), or None where nobody has said so."""
        try:
            return self._layout.current.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise RegistryError(f"{self.root}: not a folder; name the folder of snapshots with --registry") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self._layout.current}: cannot be read ({error}); activate a snapshot again") from error

    def history(self) -> list[Event]:
        """What was done, oldest first. A torn last line (a kill while appending) is left out."""
        try:
            lines = self._layout.history.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [event for event in map(_parse_event, lines) if event is not None]

    def publish(self, folder: Path, who: str | None = None) -> Manifest:
        """Verify a sealed snapshot and bring it in under its id. Publishing the same one again changes nothing.

        Files are hard-linked where that is possible: sealed files never change in place.

        Raises:
            SnapshotError: the folder is not an intact snapshot.
            RegistryError: the registry cannot be written.
        """
        manifest = verify(folder)
        with self._locked():
            target = self._layout.snapshot(manifest.id).root
            if Layout(target).manifest.is_file():
                return manifest
            incoming = self.root / f".incoming-{manifest.id}"
            shutil.rmtree(incoming, ignore_errors=True)
            _copy(folder, incoming)
            shutil.rmtree(target, ignore_errors=True)
            incoming.rename(target)
            fsync_folder(self.root)
            self._record(_event("publish", manifest.id, self.current(), "", who))
        return manifest

    def activate(self, snapshot_id: str, why: str, who: str | None = None) -> Manifest:
        """Declare a snapshot as the one to serve. Services follow; this does not wait for them.

        Raises:
            UnknownSnapshotError, ManifestError: there is no such snapshot, or its manifest cannot be read.
        """
        return self._switch("activate", lambda: snapshot_id, why, who)

    def rollback(self, why: str, who: str | None = None) -> Manifest:
        """Activate the snapshot that was active before the current one.

        Raises:
            NothingPublishedError: nothing was active before.
        """
        return self._switch("rollback", self._before, why, who)

    def _before(self) -> str:
        stack = self._activations()
        if len(stack) < 2:
            raise NothingPublishedError(f"{self.root}: nothing was active before; see: python -m snapshot history")
        return stack[-2]

    def _switch(self, action: Action, choose: Callable[[], str], why: str, who: str | None) -> Manifest:
        """``choose`` is called under the lock: two operators who roll back at once must not both leave from the same place."""
        if not self.root.is_dir():
            raise UnknownSnapshotError(f"{self.root}: no such folder; {_MAKE_ONE}")
        with self._locked():
            snapshot_id = choose()
            manifest = self.read(snapshot_id)
            self._record(_event(action, snapshot_id, self.current(), why, who))
            write_text(self._layout.current, f"{snapshot_id}\n")
        return manifest

    def _activations(self) -> list[str]:
        """What was active, oldest first: activate pushes, rollback goes back to where it went."""
        stack: list[str] = []
        for event in self.history():
            if event.action == "rollback" and event.snapshot in stack:
                del stack[len(stack) - stack[::-1].index(event.snapshot) :]
            elif event.action != "publish" and stack[-1:] != [event.snapshot]:
                stack.append(event.snapshot)
        return stack

    def _try_read(self, snapshot_id: str) -> Manifest | SnapshotError:
        try:
            return self.read(snapshot_id)
        except SnapshotError as error:
            return error

    def _record(self, event: Event) -> None:
        with self._layout.history.open("ab+") as handle:
            size = handle.seek(0, os.SEEK_END)
            torn = size > 0 and handle.seek(size - 1) >= 0 and handle.read(1) != b"\n"
            handle.write(b"\n" * torn + json.dumps(asdict(event)).encode() + b"\n")
        fsync_file(self._layout.history)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = self._layout.lock.open("w")
        except OSError as error:
            raise RegistryError(f"{self.root}: cannot be written ({error.strerror}); choose another folder") from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _copy(folder: Path, target: Path) -> None:
    """Link or copy every file, the manifest last."""
    for path in [*files_of(folder).values(), Layout(folder).manifest]:
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, copy)
        fsync_file(copy)
    for parent in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        fsync_folder(parent)


def _event(action: Action, snapshot_id: str, previous: str | None, why: str, who: str | None) -> Event:
    return Event(datetime.now(UTC).isoformat(timespec="seconds"), who or _user(), action, snapshot_id, previous, why)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _parse_event(line: str) -> Event | None:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None
