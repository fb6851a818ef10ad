"""Who serves a snapshot holds a lease on it, so that nobody removes it: a shared flock, which dies with its process.

It is taken on the manifest, opened for reading: that works on a read-only mount, needs no file of its own, and moves
with the folder. See docs/adr/0022-signatures-and-leases.md.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from snapshot.errors import UnknownSnapshotError
from snapshot.files import open_plain
from snapshot.layout import Layout

_TURN_SECONDS = 1.0
"""Who looks has the turn for some microseconds, unless others have the processor; one that was stopped is not waited for."""
_PAUSE_SECONDS = 0.0005
"""At most, until the next attempt to have it."""


class Lease:
    """Held until it is closed, or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def renew(self, folder: Path) -> None:
        """Hold the manifest that ``folder`` has by now: where a damaged one was mended, that is another file.

        Where there is none, what was held stays so: it may come back. Not beside ``close``.
        """
        if self._descriptor is None or _is_manifest_of(folder, self._descriptor):
            return
        with suppress(UnknownSnapshotError):
            descriptor = _lock(folder)
            self.close()
            self._descriptor = descriptor

    def close(self) -> None:
        """Let go; once is enough, twice does no harm."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def hold(folder: Path) -> Lease:
    """Take a lease on the snapshot in ``folder``; any number may hold one.

    Raises:
        UnknownSnapshotError: there is no such snapshot, or it was removed at this moment.
    """
    return Lease(_lock(folder))


def _lock(folder: Path) -> int:
    manifest = Layout(folder).manifest
    try:
        with open_plain(manifest) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not _is_manifest_of(folder, handle.fileno()):
                raise FileNotFoundError(0, "another file by now")
            return os.dup(handle.fileno())  # the lock is the open file's, and stays
    except OSError as error:
        see = f"python -m snapshot list --registry {folder.parent}"
        raise UnknownSnapshotError(f"{folder}: cannot be held ({error.strerror}); see: {see}") from error


def _is_manifest_of(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), Layout(folder).manifest.lstat())
    except OSError:
        return False


def is_held(folder: Path) -> bool:
    """Whether somebody holds a lease on the snapshot. Where that cannot be told, as on some network mounts, True."""
    try:
        with open_plain(Layout(folder).manifest) as handle:
            return not _look(folder, handle.fileno(), keep=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Keep leases from being taken meanwhile; False, and nothing is kept, where somebody holds one."""
    with open_plain(Layout(folder).manifest) as handle:
        yield _look(folder, handle.fileno(), keep=True)


def _look(folder: Path, descriptor: int, *, keep: bool) -> bool:
    """Whether nobody holds a lease; with ``keep`` none can be taken from then on until the file is closed."""
    with _in_turn(folder):
        free = _try_exclusive(descriptor)
        if free and not keep:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    return free


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Alone among those who look: what each of them locks for a moment would be a lease to the others.

    The turn is a lock on a folder inside the snapshot, since the snapshot's own is locked by whoever removes it. Where it
    cannot be had, one looks all the same.
    """
    try:
        descriptor = os.open(Layout(folder).golden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        _take_turn(descriptor)
        yield
    finally:
        os.close(descriptor)


def _take_turn(descriptor: int) -> None:
    """Wait while another one has it; not where this mount knows no turns, as some over a network."""
    give_up = time.monotonic() + _TURN_SECONDS
    with suppress(OSError):
        while time.monotonic() < give_up:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or this mount cannot tell: then somebody might
        return False
    return True
