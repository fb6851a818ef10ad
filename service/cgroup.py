"""What the control group says of this process's memory and processor, whenever somebody scrapes; nothing where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "scalingnote"
_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number near 2^63."""


class Usage(NamedTuple):
    """Of the control group; each is None where it is not told.

    Attributes:
        memory_bytes: in use, the cache of files included.
        memory_limit_bytes: beyond which the process is killed.
        periods: in which processor time was accounted.
        throttled_periods: of these, in which the quota was used up.
        throttled_seconds: that threads waited for the next period.
    """

    memory_bytes: float | None = None
    memory_limit_bytes: float | None = None
    periods: float | None = None
    throttled_periods: float | None = None
    throttled_seconds: float | None = None


def read_usage(cgroup: Path = _CGROUP) -> Usage:
    """Of version 2, or of version 1."""
    if (cgroup / "cgroup.controllers").exists():
        stat, memory, limit, unit = (
            cgroup / "cpu.stat",
            cgroup / "memory.current",
            cgroup / "memory.max",
            ("throttled_usec", 1e-6),
        )
    else:
        folder = cgroup / "memory"
        stat, memory, limit = cgroup / "cpu" / "cpu.stat", folder / "memory.usage_in_bytes", folder / "memory.limit_in_bytes"
        unit = ("throttled_time", 1e-9)
    limit_bytes, told = _number(_read(limit)), _read(stat)
    throttled = _field(told, unit[0])
    return Usage(
        _number(_read(memory)),
        None if limit_bytes is None or limit_bytes >= _NO_LIMIT else limit_bytes,
        _field(told, "nr_periods"),
        _field(told, "nr_throttled"),
        None if throttled is None else throttled * unit[1],
    )


class CgroupCollector(Collector):
    """Reads the files anew for each scrape; a family without a figure has no series."""

    def __init__(self, cgroup: Path = _CGROUP) -> None:
        self._cgroup = cgroup

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        usage = read_usage(self._cgroup)
        for gauge, documentation, value in (
            ("memory_bytes", "Memory of the control group, cache of files included", usage.memory_bytes),
            ("memory_limit_bytes", "Memory that the control group may take", usage.memory_limit_bytes),
        ):
            family = GaugeMetricFamily(f"{PREFIX}_cgroup_{gauge}", documentation, labels=[])
            yield _with(family, value)
        for counter, documentation, value in (
            ("cpu_periods", "Periods of the processor quota", usage.periods),
            ("cpu_throttled_periods", "Periods in which the quota was used up", usage.throttled_periods),
            ("cpu_throttled_seconds", "Time that threads waited for the next period", usage.throttled_seconds),
        ):
            yield _with(CounterMetricFamily(f"{PREFIX}_cgroup_{counter}", documentation, labels=[]), value)


def _with(family: GaugeMetricFamily | CounterMetricFamily, value: float | None) -> Metric:
    if value is not None:
        family.add_metric([], value)
    return family


def _number(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _field(text: str, name: str) -> float | None:
    found = re.search(rf"^{name} (\d+)$", text, flags=re.MULTILINE)
    return None if found is None else float(found[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
