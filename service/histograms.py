"""Histograms that cost a request next to nothing.

The Prometheus client's own looks at every bucket in turn and takes a lock for each number that it changes: 3.5 microseconds,
nine times a request. These find the bucket by bisection and take one lock.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """Observations under one label; safe from several threads."""

    __slots__ = ("_counts", "_edges", "_exemplars", "_lock", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def edges(self) -> Sequence[float]:
        """Ascending, without infinity."""
        return self._edges

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count a value in the first bucket whose edge it does not exceed; the latest trace of each bucket is its exemplar."""
        bucket = bisect_left(self._edges, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
        if trace_id is not None:
            self._exemplars[bucket] = f' # {{trace_id="{trace_id}"}} {value} {time.time():.3f}'

    def read(self) -> tuple[list[int], float]:
        """Cumulative counts up to each edge and in all, and the sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum

    def exemplar(self, bucket: int) -> str:
        """What OpenMetrics says behind a bucket's count; empty where no trace fell into it."""
        return self._exemplars.get(bucket, "")


class Histograms(Collector):
    """One family with one label."""

    def __init__(self, name: str, documentation: str, label: str, edges: Sequence[float]) -> None:
        """A family without series.

        Args:
            name: of the family, unit included.
            documentation: what it says of itself.
            label: its name.
            edges: ascending, without infinity.
        """
        self._name, self._documentation, self._label = name, documentation, label
        self._edges = tuple(edges)
        self._bounds = [*map(floatToGoString, self._edges), "+Inf"]
        self._series: dict[str, Series] = {}
        self._prefixes: dict[str, list[str]] = {}

    def of(self, value: str) -> Series:
        """The series of a label's value, which exists from now on."""
        series = self._series.get(value)
        return series if series is not None else self._series.setdefault(value, Series(self._edges))

    def text(self, exemplars: bool = False) -> str:
        """What a scrape sees, as text; the same as of ``collect``, at a tenth of what formatting each sample costs.

        ``exemplars`` are for OpenMetrics alone: Prometheus' own format does not have them.
        """
        lines = [f"# HELP {self._name} {self._documentation}", f"# TYPE {self._name} histogram"]
        for value, series in sorted(self._series.items()):
            counts, total = series.read()
            prefixes = self._prefixes.get(value)
            if prefixes is None:
                prefixes = self._prefixes[value] = self._make_prefixes(value)
            numbers = [*map(float, counts), float(counts[-1]), total]
            shown = [f"{prefix} {number}" for prefix, number in zip(prefixes, numbers, strict=True)]
            if exemplars:
                shown[: len(counts)] = [line + series.exemplar(bucket) for bucket, line in enumerate(shown[: len(counts)])]
            lines += shown
        return "\n".join(lines) + "\n"

    def _make_prefixes(self, value: str) -> list[str]:
        label = f'{self._label}="{value}"'
        buckets = [f'{self._name}_bucket{{le="{bound}",{label}}}' for bound in self._bounds]
        return [*buckets, f"{self._name}_count{{{label}}}", f"{self._name}_sum{{{label}}}"]

    def collect(self) -> Iterable[Metric]:
        """What a scrape sees."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, series in sorted(self._series.items()):
            counts, total = series.read()
            family.add_metric([value], list(zip(self._bounds, counts, strict=True)), total)
        yield family
