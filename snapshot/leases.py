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

_LOOKS = 12
"""Another one who looks has the lock for some microseconds; after pauses of random length not so often in a row."""
_PAUSE_SECONDS = 0.0005
"""At most. All looks at a snapshot that is held take about 3 ms."""


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
            return not _look(handle.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Keep leases from being taken meanwhile; False, and nothing is kept, where somebody holds one."""
    with open_plain(Layout(folder).manifest) as handle:
        yield _look(handle.fileno())


def _look(descriptor: int) -> bool:
    """Whether nobody holds a lease; it is locked then."""
    for _ in range(_LOOKS):
        if _try_exclusive(descriptor):
            return True
        time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret
    return False


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or this mount cannot tell: then somebody might
        return False
    return True
