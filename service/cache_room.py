"""Room for pulled snapshots: the oldest go first, never what is wanted, served or pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from snapshot import gc
from snapshot.errors import DiskFullError
from snapshot.layout import RegistryLayout
from snapshot.leases import is_held
from snapshot.pull import free_bytes
from snapshot.registry import Registry

_BEFORE = "rollback goes there"
"""The reason of ``snapshot.gc`` that yields where there is no room otherwise."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """What decides which snapshots may go.

    Attributes:
        folder: of the registry: snapshots come and go, CURRENT and PINS are replaced.
        history: who brought which of them, and where a rollback would go.
        held: of those that had to stay beyond the limit, whether each is open somewhere.
    """

    folder: tuple[int, int, int] | None
    history: tuple[int, int, int] | None
    serving: str | None
    held: tuple[bool, ...]


class Room:
    """What pulled snapshots may take of a registry's disk.

    Snapshots that somebody published here themselves are neither counted nor removed.
    """

    def __init__(self, registry: Registry, limit_bytes: int, who: str, serving: Callable[[], str | None]) -> None:
        """``limit_bytes`` 0: keep nothing but what is wanted, served, pinned, or where a rollback would go."""
        self._registry = registry
        self._limit_bytes = limit_bytes
        self._who = who
        self._serving = serving
        self.used_bytes = 0
        self._left: list[str] = []
        self._tidied: _State | None = None

    def make(self, needed_bytes: int) -> None:
        """Remove until so many bytes more have room, within the limit and on the disk, whatever the limit is.

        DiskFullError where what must stay leaves too little of the limit; of the disk, the pull itself says so.
        """
        while self._is_over(needed_bytes) or self._is_short(needed_bytes):
            if self._remove_oldest(frozenset()) or self._remove_oldest(frozenset({_BEFORE})):
                continue
            if self._is_over(needed_bytes):
                raise DiskFullError(
                    f"{self._registry.root}: {needed_bytes / 1e6:.1f} MB have no room beside {self.used_bytes / 1e6:.1f} MB that "
                    f"must stay; registry_cache_bytes is {self._limit_bytes / 1e6:.1f} MB: raise it "
                    "(SCALINGNOTE_REGISTRY_CACHE_BYTES)"
                )
            return

    def _is_over(self, needed_bytes: int) -> bool:
        return 0 < self._limit_bytes < self._measure() + needed_bytes

    def _is_short(self, needed_bytes: int) -> bool:
        """Whether the disk has too little, and what was pulled is not too small to change that."""
        free = free_bytes(self._registry.root)
        return free < needed_bytes <= free + self._measure()

    def tidy(self) -> None:
        """Remove what is beyond the limit by now; never an error, since nothing needs the room yet.

        Costs a look at two files and at the leases on what was left the last time, unless something has changed since.
        """
        state = self._state()
        if state == self._tidied:
            return
        held = {one: is_held(self._registry.root / one) for one in self._pulled()}
        while self._measure() > self._limit_bytes and self._remove_oldest(frozenset()):
            pass
        self._left = [one for one in self._pulled() if one in held] if self.used_bytes > self._limit_bytes else []
        self._tidied = replace(state, held=tuple(held[one] for one in self._left))

    def _state(self) -> _State:
        layout = RegistryLayout(self._registry.root)
        held = tuple(is_held(layout.root / one) for one in self._left)
        return _State(_mark(layout.root), _mark(layout.history), self._serving(), held)

    def _measure(self) -> int:
        self.used_bytes = _bytes_of([self._registry.root / one for one in self._pulled()])
        return self.used_bytes

    def _pulled(self) -> list[str]:
        """The oldest first."""
        publishers = {event.snapshot: event.who for event in self._registry.history() if event.action == "publish"}
        return [one for one in self._registry.ids() if publishers.get(one) == self._who]

    def _remove_oldest(self, yielding: frozenset[str]) -> bool:
        for one in self._pulled():
            if one != self._serving() and gc.discard(self._registry, one, yielding, self._who):
                _log.info("remote_evicted", snapshot=one, registry=str(self._registry.root))
                return True
        return False


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Another one where a folder or a file has changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _bytes_of(folders: Sequence[Path]) -> int:
    """Bytes of the files below, those with several names counted once."""
    files: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # somebody else's gc was faster
                status = path.lstat()
                if path.is_file():
                    files[status.st_dev, status.st_ino] = status.st_size
    return sum(files.values())
