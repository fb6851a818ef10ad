"""What the control group says of this process's memory and processor, whenever somebody scrapes; nothing where there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.control_groups import MEMBERSHIP, MOUNT, cpu_quota_in, groups_of, read_text

PREFIX = "scalingnote"
_NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number near 2^63."""


class Usage(NamedTuple):
    """Of the control group with the least limit among those that hold this process; each is None where it is not told.

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


def read_usage(cgroup: Path = MOUNT, membership: Path = MEMBERSHIP) -> Usage:
    """Of version 2, or of version 1."""
    memory = _tightest(groups_of("memory", cgroup, membership), _memory_in, _memory_limit_in)
    processor = _tightest(groups_of("cpu", cgroup, membership), _periods_in, cpu_quota_in)
    told = "" if processor is None else read_text(processor / "cpu.stat")
    return Usage(
        None if memory is None else _memory_in(memory),
        None if memory is None else _memory_limit_in(memory),
        _field(told, "nr_periods"),
        _field(told, "nr_throttled"),
        _throttled_seconds(told),
    )


def _tightest(groups: list[Path], use: Callable[[Path], float | None], limit: Callable[[Path], float | None]) -> Path | None:
    """The group with the least limit, the process's own where there is none, of those that tell their use."""
    limits = {group: math.inf if (most := limit(group)) is None else most for group in groups if use(group) is not None}
    return min(limits, key=limits.__getitem__, default=None)


def _memory_in(folder: Path) -> float | None:
    return _number(read_text(folder / "memory.current") or read_text(folder / "memory.usage_in_bytes"))


def _memory_limit_in(folder: Path) -> float | None:
    limit = _number(read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes"))
    return None if limit is None or limit >= _NO_LIMIT else limit


def _periods_in(folder: Path) -> float | None:
    return _field(read_text(folder / "cpu.stat"), "nr_periods")


def _throttled_seconds(told: str) -> float | None:
    """Version 2 counts microseconds, version 1 nanoseconds."""
    for name, unit in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):
        throttled = _field(told, name)
        if throttled is not None:
            return throttled * unit
    return None


class CgroupCollector(Collector):
    """Reads the files anew for each scrape; a family without a figure has no series."""

    def __init__(self, cgroup: Path = MOUNT) -> None:
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
