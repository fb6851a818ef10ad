"""Bringing a sealed snapshot into a registry; in place of one of the same id if that is damaged.

Mending is done by renaming: whoever has the damaged files open or mapped keeps them. Of those that are there, the intact
ones stay, and so does the manifest: leases are locks on it, and who serves the snapshot goes on holding one. Where the
manifest itself is damaged another one takes its place, and who serves the snapshot takes a lease on that at its next look.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from snapshot.errors import SnapshotError, UnsafePathError
from snapshot.files import sha256
from snapshot.history import make_event
from snapshot.layout import MANIFEST, SIGNATURE, Layout
from snapshot.manifest import Manifest, read_bytes
from snapshot.seal import files_of
from snapshot.signing import read_signature
from snapshot.staging import Held, copy, delete_all, leftovers, make_incoming, take_away
from snapshot.verify import verify

if TYPE_CHECKING:
    from snapshot.registry import Registry

_MENDED = "in place of a damaged one"


def publish(registry: Registry, folder: Path, who: str | None) -> Manifest:
    """See ``Registry.publish``. Nothing slow is done under the registry's lock."""
    manifest = verify(folder)
    with registry.locked(make=True):
        found = _found(registry.root, manifest.id)
    if found is not None and is_intact(registry.root / manifest.id):
        return manifest
    with registry.locked():
        left = leftovers(registry.root)
        incoming = make_incoming(registry.root, manifest.id)
    with registry.writing(), closing(incoming):
        try:
            delete_all(left)
            intact = {} if found is None else _intact_parts(registry.root / manifest.id, folder, manifest)
            copy(folder, incoming.folder, intact)
            _bring_in(registry, manifest.id, incoming, found, who)
        finally:
            if incoming.folder != registry.root / manifest.id:
                incoming.delete()
    return manifest


def is_intact(folder: Path) -> bool:
    """Whether a snapshot of the registry is the one that was sealed; reads all of it."""
    try:
        verify(folder)
    except SnapshotError:
        return False
    return True


def _found(root: Path, snapshot_id: str) -> os.stat_result | None:
    """Which folder the snapshot of that id is, if there is one.

    Raises:
        UnsafePathError: the id is taken by what is no folder, or differs in case only from another one's.
    """
    alike = [path.name for path in root.iterdir() if path.name.casefold() == snapshot_id.casefold()]
    target = Layout(root / snapshot_id)
    if set(alike) - {snapshot_id} or target.root.is_symlink() or (alike and not target.root.is_dir()):
        raise UnsafePathError(f"{root}: {snapshot_id!r} is no free name, there is {alike}; seal the snapshot again")
    return target.root.stat() if target.manifest.is_file() else None


def _intact_parts(there: Path, source: Path, manifest: Manifest) -> dict[str, Path]:
    """What of the damaged snapshot ``there`` is as it should be, by its path inside."""
    intact = {}
    for name, path in files_of(there).items():
        entry = manifest.files.get(name)
        with suppress(OSError):
            if entry is not None and path.lstat().st_size == entry.bytes and sha256(path) == entry.sha256:
                intact[name] = path
    layout = Layout(there)
    with suppress(SnapshotError):
        if read_bytes(layout.manifest) == read_bytes(Layout(source).manifest):
            intact[MANIFEST] = layout.manifest
            if read_signature(there) is not None:
                intact[SIGNATURE] = layout.signature
    return intact


def _bring_in(registry: Registry, snapshot_id: str, incoming: Held, damaged: os.stat_result | None, who: str | None) -> None:
    target = registry.root / snapshot_id
    away = None
    with registry.locked():
        found = _found(registry.root, snapshot_id)
        if found is not None and (damaged is None or not os.path.samestat(found, damaged)):
            return  # another publisher was faster
        if target.exists():
            away = take_away(target)  # damaged, or a folder without a manifest, which does not exist
        why = _MENDED if damaged is not None else ""
        registry.record(make_event("publish", snapshot_id, who, why, previous=registry.found()))
        incoming.rename(target)
    if away is not None:
        delete_all([away])
