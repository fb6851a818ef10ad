"""Folders that come into the registry or leave it: under a hidden name, so that nothing half exists.

Who works on one holds an exclusive flock on the folder itself. One that nobody holds is what a kill left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType

from snapshot.files import TEMPORARY, fsync_file, fsync_folder, link_or_copy
from snapshot.layout import MANIFEST, SIGNATURE, Layout
from snapshot.manifest import read_bytes
from snapshot.seal import files_of
from snapshot.signing import read_signature

PULLING = ".pulling-"
_INCOMING = ".incoming-"
_REMOVED = ".removed-"
_STALE_SECONDS = 3600.0
_NOTHING: Mapping[str, Path] = MappingProxyType({})


class Held:
    """A folder whose flock this process holds; renaming it does not let go."""

    def __init__(self, folder: Path) -> None:
        """BlockingIOError where another process holds it."""
        self.folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def is_at(self, folder: Path) -> bool:
        """Whether ``folder`` is still the name of this one, which another process may have renamed or removed before."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.lstat())
        except FileNotFoundError:
            return False

    def rename(self, target: Path) -> None:
        self.folder.rename(target)
        self.folder = target
        fsync_folder(target.parent)

    def delete(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        os.close(self._descriptor)


def make_incoming(root: Path, snapshot_id: str) -> Held:
    """A new folder for a snapshot that is being copied into the registry; call it under the registry's lock."""
    folder = root / f"{_INCOMING}{snapshot_id}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return Held(folder)


def take_away(folder: Path) -> Held:
    """Rename a snapshot so that it no longer exists; call it under the registry's lock, and delete it after."""
    held = Held(folder)
    try:
        held.rename(folder.with_name(f"{_REMOVED}{folder.name}-{uuid.uuid4().hex[:8]}"))
    except OSError:
        held.close()
        raise
    return held


def leftovers(root: Path) -> list[Held]:
    """What killed processes left behind, held so that it can be deleted without the lock; call it under the registry's lock."""
    found = []
    for path in sorted(root.iterdir()):
        if path.name.startswith((_INCOMING, _REMOVED)) and path.is_dir() and not path.is_symlink():
            found.extend(_free(path))
        elif path.name.startswith(".") and path.name.endswith(TEMPORARY) and not path.is_dir():
            path.unlink(missing_ok=True)  # its writer would hold the registry's lock
    return found


def stale_pulls(root: Path, complete: Collection[str]) -> list[Held]:
    """What pulls left behind that nobody goes on with: of a snapshot that is ``complete`` by now, or untouched for an hour.

    A service that follows a remote registry tries again within minutes, and a pull goes on with what the one before left.
    """
    found = []
    for path in sorted(root.glob(f"{PULLING}*")):
        if path.is_dir() and not path.is_symlink():
            for held in _free(path):
                if path.name.removeprefix(PULLING) in complete or _untouched_seconds(path) > _STALE_SECONDS:
                    found.append(held)
                else:
                    held.close()
    return found


def _free(folder: Path) -> list[Held]:
    try:
        return [Held(folder)]
    except (BlockingIOError, FileNotFoundError, PermissionError):  # somebody works on it, has just removed it, or owns it
        return []


def _untouched_seconds(folder: Path) -> float:
    """Since anything in it changed; the size of the difference, for clocks are set back."""
    latest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            latest = max(latest, path.lstat().st_ctime)
    return abs(time.time() - latest)


def delete_all(held: list[Held]) -> list[Path]:
    """Delete folders and let go of them; those that only somebody else may delete are left, and returned."""
    left = []
    with ExitStack() as closing:
        for one in held:
            closing.callback(one.close)
        for one in held:
            try:
                one.delete()
            except PermissionError:
                left.append(one.folder)
    return left


def copy(folder: Path, target: Path, instead: Mapping[str, Path] = _NOTHING) -> None:
    """Link or copy every file of a sealed snapshot into the empty folder ``target``, the manifest last.

    The manifest is copied: leases are locks on it, and two registries must not share them.

    Args:
        folder: of the snapshot.
        target: made before.
        instead: files of the same content in the registry of ``target``, by their path inside the snapshot; the manifest
            is linked then. A signature of ``folder`` comes before one of these.
    """
    for name, path in files_of(folder).items():
        link_or_copy(instead.get(name, path), target / name)
        fsync_file(target / name)
    signature = read_signature(folder)
    if signature is not None:
        _write_durably(Layout(target).signature, signature)
    elif SIGNATURE in instead:
        link_or_copy(instead[SIGNATURE], Layout(target).signature)
    if MANIFEST in instead:
        link_or_copy(instead[MANIFEST], Layout(target).manifest)
    else:
        _write_durably(Layout(target).manifest, read_bytes(Layout(folder).manifest))
    for parent in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        fsync_folder(parent)


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    fsync_file(path)
