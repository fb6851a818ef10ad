"""Limits of the control groups between the mount and this process, which a service in the same place does not look at.

In a container the mount is the container's own group. On a machine with systemd it is not: a unit's quota lies further down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from service.cores import quota_of

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number near 2^63."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The least of all groups below the mount; None where there is none.

    Attributes:
        cores: of processor time.
        memory_bytes: beyond which the process is killed.
    """

    cores: float | None = None
    memory_bytes: int | None = None


def limits_below(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> Limits:
    """What holds for this process besides what the files right at ``mount`` say."""
    cores, memory = [], []
    for controllers, path in _memberships(_read(membership)):
        for folder in _below(_base(mount, controllers), path):
            if controllers in ("", "cpu"):
                cores.append(quota_of(folder, folder))
            if controllers in ("", "memory"):
                memory.append(_bytes(folder / "memory.max") or _bytes(folder / "memory.limit_in_bytes"))
    found = [limit for limit in memory if limit is not None and limit < _NO_LIMIT]
    return Limits(min((quota for quota in cores if quota is not None), default=None), min(found, default=None))


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    """Controller ("" for version 2) and path of each line ``id:controllers:path``."""
    for line in text.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            yield controller, path


def _base(mount: Path, controller: str) -> Path:
    if controller:
        return mount / controller
    return mount / "unified" if (mount / "unified").is_dir() else mount


def _below(base: Path, path: str) -> Iterator[Path]:
    """The folders from the process's own group up, without ``base``."""
    inside = PurePosixPath(path.lstrip("/"))
    if ".." not in inside.parts:  # the group is outside of what is mounted here
        yield from (base / part for part in [inside, *inside.parents] if part.parts)


def _bytes(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
