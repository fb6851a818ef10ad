"""Removing snapshots that nobody wants, serves or keeps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from snapshot.errors import RegistryError
from snapshot.history import last_served, make_event
from snapshot.leases import claimed, is_held
from snapshot.staging import Held, delete_all, leftovers, stale_pulls, take_away

if TYPE_CHECKING:
    from snapshot.registry import Registry


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed and what was kept.

    Attributes:
        removed: ids, in the order in which they were published.
        kept: ids, with the reasons why each was kept.
        freed_bytes: of files that no other folder links to.
        leftovers: folders that killed processes had left behind; with ``dry_run`` the pulls among them.
        dry_run: nothing was removed; ``removed`` is what would be.
    """

    removed: tuple[str, ...]
    kept: dict[str, tuple[str, ...]]
    freed_bytes: int
    leftovers: int
    dry_run: bool


@dataclass(slots=True)
class _Taken:
    """What no longer exists and is still to be deleted."""

    held: list[Held] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


def collect(registry: Registry, keep: int, *, dry_run: bool, who: str | None) -> Collected:
    """See ``Registry.gc``. A snapshot is first renamed, so that it does not exist any more, and then deleted.

    Raises:
        RegistryError: as there; or what was removed is somebody else's to delete.
    """
    if keep < 0:
        raise RegistryError(f"keep is {keep}; say how many of the latest snapshots to keep, 0 or more")
    if dry_run:
        kept = reasons(registry, keep)
        removed = [one for one in registry.ids() if one not in kept]
        pulls = _stale_pulls(registry)
        for held in pulls:
            held.close()
        freed = _freed([*(registry.root / one for one in removed), *(held.folder for held in pulls)])
        return Collected(tuple(removed), kept, freed, len(pulls), dry_run=True)
    taken = _Taken()
    with registry.locked():
        left = [*leftovers(registry.root), *_stale_pulls(registry)]
        kept = reasons(registry, keep)
        for snapshot_id in registry.ids():
            if snapshot_id not in kept and not _take(registry, snapshot_id, taken, who):
                kept[snapshot_id] = ("open",)
    freed = _freed([held.folder for held in (*left, *taken.held)])
    if others := delete_all([*left, *taken.held]):
        raise RegistryError(
            f"{others[0]}: cannot be deleted, since it or a folder in it is another user's; run gc as its owner. No snapshot is "
            f"lost by that: {len(taken.ids)} were removed as asked, {len(others)} folders of such wait to be deleted"
        )
    return Collected(tuple(taken.ids), kept, freed, len(left), dry_run=False)


def reasons(registry: Registry, keep: int) -> dict[str, tuple[str, ...]]:
    """Why each snapshot that must stay does, by its id, in the order in which they were published.

    ``serving`` and ``open`` are those of ``python -m snapshot list``: a lease alone does not say which it is.
    """
    ids = registry.ids()
    held = {one for one in ids if is_held(registry.root / one)}
    serving = held & last_served(registry.history())
    protected: dict[str, Collection[str | None]] = {
        "desired": {registry.current()},
        "serving": serving,
        "open": held - serving,
        "pinned": registry.pins(),
        "rollback goes there": {registry.before()},
        "latest": set(ids[len(ids) - keep :] if keep < len(ids) else ids),
        "not a folder": {one for one in ids if (registry.root / one).is_symlink()},
    }
    found = {one: tuple(why for why, those in protected.items() if one in those) for one in ids}
    return {one: why for one, why in found.items() if why}


def _stale_pulls(registry: Registry) -> list[Held]:
    return stale_pulls(registry.root, registry.ids())


def _take(registry: Registry, snapshot_id: str, taken: _Taken, who: str | None) -> bool:
    """False where somebody has begun to serve it, or to bring it in."""
    folder = registry.root / snapshot_id
    try:
        with claimed(folder) as free:
            if not free:
                return False
            registry.record(make_event("remove", snapshot_id, who, "gc"))
            taken.held.append(take_away(folder))
    except BlockingIOError:
        return False
    taken.ids.append(snapshot_id)
    return True


def _freed(folders: Sequence[Path]) -> int:
    """Bytes of the files whose every link lies in ``folders``."""
    links: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.lstat()
                found[status.st_dev, status.st_ino] = status
                links[status.st_dev, status.st_ino] += 1
    return sum(status.st_size for key, status in found.items() if links[key] >= status.st_nlink)


def discard(registry: Registry, snapshot_id: str, yielding: frozenset[str], who: str) -> bool:
    """Remove one snapshot; False where there is a reason to keep it that is not among those ``yielding``."""
    taken = _Taken()
    with registry.locked():
        kept = set(reasons(registry, 0).get(snapshot_id, ())) - yielding
        if kept or not _take(registry, snapshot_id, taken, who):
            return False
    delete_all(taken.held)
    return True
