"""Instruments of what live queries show of the snapshot that serves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.live import OUTCOMES, WORKS, Figures, Outcome, Work
from service.windows import Estimate

PREFIX = "scalingnote"
BOUNDS = ("mean", "low", "high")
_COSINE_EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


class LiveMetrics:
    """A LiveObserver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        samples = Counter(f"{PREFIX}_live_samples", "Live searches put aside", ["work", "outcome"], registry=registry)
        self._samples = {labels: samples.labels(*labels) for labels in itertools.product(WORKS, OUTCOMES)}
        self._cosines = Histogram(
            f"{PREFIX}_teacher_cosine_similarity",
            "Cosine of the student's and the teacher's vector of a live query",
            buckets=_COSINE_EDGES,
            registry=registry,
        )
        self._cpu = Counter(f"{PREFIX}_live_cpu_seconds", "Processor time that this has taken", registry=registry)

    def shown(self, figures: Callable[[], Figures]) -> None:
        """Ask this for what is found of the snapshot that serves, whenever somebody scrapes."""
        self._registry.register(_Gauges(figures))

    def sampled(self, work: Work, outcome: Outcome) -> None:
        """A live search was put aside, with this end."""
        self._samples[work, outcome].inc()

    def agreed(self, cosine: float) -> None:
        """Student and teacher have encoded a live query."""
        self._cosines.observe(cosine)

    def worked(self, cpu_seconds: float) -> None:
        """So much processor time was taken."""
        self._cpu.inc(max(0.0, cpu_seconds))


class _Gauges(Collector):
    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        found = self._figures()
        yield _bounds("live_recall", "Recall@10 that live searches got, with its 95% interval", found.recall)
        yield _count("live_recall_queries", "Live searches that the recall is of", found.recall)
        yield _bounds("teacher_cosine", "Mean cosine of student and teacher, with its 95% interval", found.cosine)
        yield _bounds("teacher_overlap", "Mean overlap@10 of student and teacher, with its 95% interval", found.overlap)
        yield _count("teacher_queries", "Live queries that cosine and overlap are of", found.cosine)
        yield GaugeMetricFamily(f"{PREFIX}_worst_queries", "Queries kept for the next distillation", found.worst)


def _bounds(name: str, documentation: str, estimate: Estimate | None) -> Metric:
    """Without a series where nothing was measured: no figure is not a figure of nought."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", documentation, labels=["bound"])
    if estimate is not None:
        for bound, value in zip(BOUNDS, estimate[:3], strict=True):
            family.add_metric([bound], value)
    return family


def _count(name: str, documentation: str, estimate: Estimate | None) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, 0 if estimate is None else estimate.size)
