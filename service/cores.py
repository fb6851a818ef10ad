"""How many cores this process may really use, which is not how many the machine has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = _CGROUP, affinity: int | None = None) -> int:
    """Cores by affinity, lowered to the CPU quota of the control group (version 2 or 1); at least 1.

    Args:
        cgroup: where the control group's files are mounted.
        affinity: cores that the scheduler lets this process use; asked of the system unless given.
    """
    allowed = affinity if affinity is not None else _affinity()
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    return max(1, min(allowed, int(quota))) if quota is not None else max(1, allowed)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_v2(path: Path) -> float | None:
    """``cpu.max`` holds "QUOTA PERIOD", where QUOTA may be "max"."""
    parts = _read(path).split()
    return int(parts[0]) / int(parts[1]) if len(parts) == 2 and parts[0].isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
