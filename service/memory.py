"""How much memory there is, what a snapshot will take of it, and giving back what is not used any more.

Counted: what a snapshot holds for itself (``held_bytes``: the query tower, and the cache of its filters) and what it maps
(``mapped_bytes``: index and documents, whose pages all processes on the machine share). Pages can be taken back by the
system and read again, so a snapshot whose pages do not fit still answers, from disk: slowly, and slowing the one beside it.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.control_groups import MEMBERSHIP, MOUNT, groups_of, read_text
from snapshot.layout import QUERY_TOWER, TEACHER_TOWER, Layout
from snapshot.manifest import Manifest

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4
_MAPPED = ("index/", "documents/")
_TOWER_FACTOR = 3.0
"""Memory over the bytes of graph and tokenizer while they load: the file's, the weights, and the weights packed for the CPU."""


@dataclass(frozen=True, slots=True)
class Freed:
    """Resident memory of the process before a generation was closed, and after its memory was given back."""

    before_bytes: int
    after_bytes: int

    @property
    def bytes(self) -> int:
        """Given back; negative where others took more meanwhile."""
        return self.before_bytes - self.after_bytes


def held_bytes(manifest: Manifest, filter_cache_bytes: int) -> int:
    """What a snapshot takes for itself, at most, while it is loaded and afterwards; the teacher's tower, if it has that, too."""
    folders = (f"{QUERY_TOWER}/", f"{TEACHER_TOWER}/")
    tower = sum(entry.bytes for name, entry in manifest.files.items() if name.startswith(folders))
    return int(_TOWER_FACTOR * tower) + filter_cache_bytes


def mapped_bytes(snapshots: Iterable[tuple[Layout, Manifest]]) -> int:
    """Bytes that these snapshots map together; linked files count once, and those that are gone are still mapped."""
    sizes: dict[object, int] = {}
    for layout, manifest in snapshots:
        for name, entry in manifest.files.items():
            if name.startswith(_MAPPED):
                sizes[_identity(layout.root / name)] = entry.bytes
    return sum(sizes.values())


def _identity(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


def available_bytes(cgroup: Path = MOUNT, meminfo: Path = _MEMINFO, membership: Path = MEMBERSHIP) -> int | None:
    """What the control groups (version 2 or 1) and the machine have left, the cache of files on disks as free; None: unknown."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", read_text(meminfo), flags=re.MULTILINE)
    machine = None if found is None else int(found[1]) * 1024
    groups = groups_of("memory", cgroup, membership)
    lefts = (machine, *(left(group) for group in groups for left in (_left_v2, _left_v1)))
    return min((left for left in lefts if left is not None), default=None)


def _left_v2(folder: Path) -> int | None:
    limit, used = read_text(folder / "memory.max"), read_text(folder / "memory.current")
    return _left(limit, used, _cache(folder / "memory.stat", "file", "shmem"))


def _left_v1(folder: Path) -> int | None:
    limit, used = read_text(folder / "memory.limit_in_bytes"), read_text(folder / "memory.usage_in_bytes")
    return _left(limit, used, _cache(folder / "memory.stat", "total_cache", "total_shmem"))


def _left(limit: str, used: str, cache: int) -> int | None:
    return max(0, int(limit) - int(used) + cache) if limit.isdigit() and used.isdigit() else None


def _cache(path: Path, name: str, shared: str) -> int:
    """Of files that can be read again: those of a tmpfs (a container's /tmp, a registry in memory) are counted with them."""
    return max(0, _stat(path, name) - _stat(path, shared))


def _stat(path: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", read_text(path), flags=re.MULTILINE)
    return 0 if found is None else int(found[1])


def resident_bytes() -> int:
    """Resident memory of this process, mapped files included; 0 where the system does not say."""
    fields = read_text(_STATM).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def let_go_of_pages(paths: Iterable[Path]) -> None:
    """Let the process forget the pages of files that it has mapped; whoever reads them again gets them again.

    Unmapping a gigabyte takes tens of milliseconds for its pages, and libraries do it holding the interpreter's lock: the
    event loop would stand still. This does not hold it, and leaves nothing to do for the unmapping.
    """
    if sys.platform != "linux":
        return
    wanted, madvise = {str(path.resolve()) for path in paths}, ctypes.CDLL(None).madvise
    for line in read_text(_MAPS).splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in wanted:
            begin, end = (int(address, 16) for address in fields[0].split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def give_back() -> None:
    """Return freed memory to the system: glibc keeps it otherwise, for as long as the process lives."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)  # without the interpreter's lock, as every call of a CDLL
