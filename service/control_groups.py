"""The control groups that hold this process: whatever reads a limit, reads it of all of them.

In a container the mount is the container's own group. Under systemd, and where a container sees the host's namespace, it is
not: a unit's quota lies further down.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def groups_of(controller: str, mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> list[Path]:
    """Folders of version 2, then of ``controller`` in version 1, the process's own group first and what is mounted last."""
    paths = dict(_memberships(read_text(membership)))
    unified = mount / "unified" if (mount / "unified").is_dir() else mount
    return [*_upwards(unified, paths.get("", "/")), *_upwards(mount / controller, paths.get(controller, "/"))]


def cpu_quota_in(folder: Path) -> float | None:
    """Cores of processor time that one group may use; None: no quota."""
    unified = (*read_text(folder / "cpu.max").split(), "", "")[:2]
    separate = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    for quota, period in (unified, separate):
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            return int(quota) / int(period)
    return None


def cpu_quota(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> float | None:
    """The least of all groups that hold this process; None: no quota."""
    quotas = (cpu_quota_in(folder) for folder in groups_of("cpu", mount, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def read_text(path: Path) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    """Controller ("" for version 2) and path of each line ``id:controllers:path``."""
    for line in text.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            yield controller, path


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """The folders that there are, from the group at ``path`` up to ``base``."""
    inside = PurePosixPath(path.lstrip("/"))
    if ".." in inside.parts:  # the group is outside of what is mounted here
        inside = PurePosixPath()
    yield from (folder for part in dict.fromkeys([inside, *inside.parents]) if (folder := base / part).is_dir())
