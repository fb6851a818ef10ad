"""What is read off the running parts when Prometheus asks, instead of being told with each request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.admission import Lane, Limiter
from service.cache import VectorCache
from service.engines.breaker import State, breaker_of
from service.generation import Generation
from service.workers import Workers

PREFIX = "scalingnote"


class Runtime(Collector):
    """Queue, caches, and what the serving generation has learned."""

    def __init__(self, current: Callable[[], Generation | None], limiter: Limiter, workers: Workers, cache: VectorCache) -> None:
        self._current = current
        self._limiter = limiter
        self._workers = workers
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """Every family, whether anything serves or not."""
        generation = self._current()
        yield from self._queue()
        yield from self._query_cache()
        yield from _filter_cache(generation)
        yield _costs(generation)
        yield _batches(generation)
        yield _engine_state(generation)

    def _queue(self) -> Iterable[Metric]:
        yield _gauge("waiting", "Requests that no thread is working on", self._workers.waiting())
        lanes = GaugeMetricFamily(f"{PREFIX}_lane_in_flight", "Requests in flight, by kind", labels=["lane"])
        shares = GaugeMetricFamily(f"{PREFIX}_lane_share", "Requests of a kind that are always let in", labels=["lane"])
        for lane in Lane:
            lanes.add_metric([lane.value], self._limiter.depth(lane))
            shares.add_metric([lane.value], self._limiter.share(lane))
        yield from (lanes, shares)

    def _query_cache(self) -> Iterable[Metric]:
        stats = self._cache.stats
        asked = CounterMetricFamily(f"{PREFIX}_query_cache_requests", "Queries looked up", labels=["outcome"])
        for outcome, count in (("hit", stats.hits), ("miss", stats.misses), ("shared", stats.shared)):
            asked.add_metric([outcome], count)
        yield asked
        yield CounterMetricFamily(f"{PREFIX}_query_cache_evictions", "Vectors that made room", stats.evictions)
        yield _gauge("query_cache_bytes", "Memory of remembered vectors", stats.bytes)
        yield _gauge("query_cache_entries", "Remembered vectors", stats.entries)


def _filter_cache(generation: Generation | None) -> Iterable[Metric]:
    stats = None if generation is None else generation.documents.filter_stats()
    asked = GaugeMetricFamily(f"{PREFIX}_filter_cache_lookups", "Conditions and filters looked up", labels=["outcome"])
    asked.add_metric(["hit"], 0 if stats is None else stats.hits)
    asked.add_metric(["miss"], 0 if stats is None else stats.misses)
    yield asked
    yield _gauge("filter_cache_bytes", "Memory of what filters have selected", 0 if stats is None else stats.bytes)


def _costs(generation: Generation | None) -> Metric:
    labels = ["stage", "kind", "load", "quantile"]
    family = GaugeMetricFamily(f"{PREFIX}_cost_seconds", "What a stage costs, as the plans believe it", labels=labels)
    for cost in () if generation is None else generation.costs.export():
        family.add_metric([cost.stage, cost.key, cost.load.value, f"{cost.quantile:g}"], cost.seconds)
    return family


def _batches(generation: Generation | None) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_batch_rows_worth", "Queries that are worth one call", labels=["tokens"])
    for size in () if generation is None else generation.encoder.batching.sizes:
        family.add_metric([str(size.tokens)], size.rows)
    return family


def _engine_state(generation: Generation | None) -> Metric:
    """Of an engine on another machine, that of its breaker; one in this process is always ``closed``."""
    breaker = None if generation is None else breaker_of(generation.engine)
    state = State.CLOSED if breaker is None else breaker.state
    family = GaugeMetricFamily(f"{PREFIX}_engine_state", "Whether the search engine is asked", labels=["state"])
    for each in State:
        family.add_metric([each.value], generation is not None and each is state)
    return family


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, value)
