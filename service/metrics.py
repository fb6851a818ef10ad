"""Every instrument of the service, on a given registry. Each one is described in docs/metrics.md.

Times are in seconds. Buckets are geometric from 0.25 ms and have every configured budget as an edge, so that the share
of requests within a budget is exact and not interpolated.
"""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector

from service.budgets import Budgets
from service.cgroup import CgroupCollector
from service.cores import ThreadPlan
from service.errors import CallerGoneError, DeadlineExceededError, DrainingError, OverloadedError
from service.failures import REFUSALS
from service.gate_metrics import GateMetrics
from service.generation import STEPS, Generation
from service.histograms import Histograms
from service.live_metrics import LiveMetrics
from service.memory import Freed, available_bytes
from service.plan import CAUSES, Cause, SearchPlan
from service.remote_metrics import RemoteMetrics
from service.settings import Settings
from service.swap import SwapState
from service.telemetry_metrics import TelemetryMetrics
from service.walk import STAGES, Stage
from service.watch import Vitals

PREFIX = "scalingnote"
DROPPED = ("late", "gone")
SHED = ("overloaded", "draining")
CLOSES = ("keep_alive", "header_timeout", "unread", "malformed", "headers_too_large", "pipeline", "crowded", "refused", "bodies")
OBJECTIVES = ("availability", "in_budget", "recall", "overlap")
SWAP_OUTCOMES = ("replaced", "returned", "failed")
WORK_ROUTES = ("/search", "/search/batch", "/embed", "/v1/embeddings")
SERVED = (200, 504)
"""Answers of requests that were worked on, in time or not."""
FAILURES = (429, 500, 503, 504)
LIBRARIES = ("scalingnote", "onnxruntime", "faiss-cpu", "tokenizers", "pyarrow", "fastapi")

_FIRST_EDGE_SECONDS = 0.00025
_LAST_EDGE_SECONDS = 16.0
_RECALL_EDGES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
_ROWS_EDGES = (1.0, 2.0, 4.0, 8.0, 16.0)
_LAG_EDGES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LEFT_EDGES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SWAP_EDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

_log = structlog.get_logger(__name__)


def edges(budgets_seconds: Iterable[float]) -> list[float]:
    """Bucket edges in seconds: a factor of √2 apart, with each budget in place of no other."""
    count = round(2 * math.log2(_LAST_EDGE_SECONDS / _FIRST_EDGE_SECONDS)) + 1
    geometric = (_FIRST_EDGE_SECONDS * math.sqrt(2) ** i for i in range(count))
    return sorted({float(f"{edge:.3g}") for edge in geometric} | set(budgets_seconds))


class Metrics:
    """Instruments by name; label sets that are known at the start exist from the start, at zero.

    Attributes:
        registry: everything.
        plain: all but what ``histograms`` gives as text at a fraction of the cost.
        gate: of what snapshots had to show.
        live: of what live queries show of the one that serves.
        remote: of the remote registry.
        telemetry: of log lines and spans.
    """

    def __init__(self, registry: CollectorRegistry, settings: Settings, threads: ThreadPlan) -> None:
        self.registry = registry
        self.plain = CollectorRegistry()
        self._requests(self.plain, settings)
        self._objectives(self.plain, settings)
        self._overload(self.plain, settings, threads)
        self._connections(self.plain)
        self._snapshots(self.plain)
        self.gate = GateMetrics(self.plain)
        self.live = LiveMetrics(self.plain)
        self.remote = RemoteMetrics(self.plain)
        self.telemetry = TelemetryMetrics(self.plain)
        self._build(self.plain)
        for collector in (self.plain, *self._histograms):
            registry.register(collector)

    def _requests(self, registry: CollectorRegistry, settings: Settings) -> None:
        budgets = {"default": settings.default_timeout_ms / 1000, "max": settings.max_timeout_ms / 1000}
        buckets = edges(budgets.values())
        self.requests = Counter(
            f"{PREFIX}_requests", "Answers, by route template and status", ["route", "code"], registry=registry
        )
        self._answers: dict[tuple[str, int], Counter] = {}
        self.request_seconds = Histograms(f"{PREFIX}_request_seconds", "Time from first byte to last", "route", buckets)
        stages = Histograms(f"{PREFIX}_stage_seconds", "Time by stage of a request", "stage", buckets)
        self._stages = {stage: stages.of(stage) for stage in STAGES}
        left = Histograms(f"{PREFIX}_stage_budget_left_seconds", "Of the budget, left after a stage", "stage", _LEFT_EDGES)
        self._left = {stage: left.of(stage) for stage in STAGES}
        self._searches = Counter(f"{PREFIX}_searches", "Searches, by the effort that was used", ["effort"], registry=registry)
        self._efforts: dict[str, Counter] = {}
        self._expected = Histograms(
            f"{PREFIX}_expected_recall", "Recall that searches could expect of their effort", "exact", _RECALL_EDGES
        )
        self._expected_by = {exact: self._expected.of(str(exact).lower()) for exact in (False, True)}
        calls = Histograms(f"{PREFIX}_batch_rows", "Queries of one call of the query tower", "graph", _ROWS_EDGES)
        self._rows = calls.of("query_tower")
        self.budgets = Budgets(settings.default_timeout_ms)
        self._histograms = (self.request_seconds, stages, left, self._expected, calls)
        self.budget = Gauge(f"{PREFIX}_budget_seconds", "Time that a request may take", ["budget"], registry=registry)
        for name, seconds in budgets.items():
            self.budget.labels(name).set(seconds)
        self.errors = Counter(f"{PREFIX}_unhandled_errors", "Faults of the service itself, answered 500", registry=registry)

    def _objectives(self, registry: CollectorRegistry, settings: Settings) -> None:
        targets = Gauge(f"{PREFIX}_slo_target", "Objectives, as shares of 1", ["slo"], registry=registry)
        for slo in OBJECTIVES:
            targets.labels(slo).set(getattr(settings, f"slo_{slo}"))
        age = Gauge(f"{PREFIX}_slo_snapshot_age_seconds", "Age at which a snapshot is too old; 0: never", registry=registry)
        age.set(settings.slo_snapshot_age_seconds)
        over = Counter(f"{PREFIX}_over_budget", "Answers after the request's own budget", ["route"], registry=registry)
        sent = Counter(f"{PREFIX}_sent_elsewhere", "Answers 503 too_slow: another replica is asked", ["route"], registry=registry)
        self._over_budget, self._sent_elsewhere = ({route: one.labels(route) for route in WORK_ROUTES} for one in (over, sent))

    def _overload(self, registry: CollectorRegistry, settings: Settings, threads: ThreadPlan) -> None:
        degraded = Counter(f"{PREFIX}_degraded", "Searches that gave something up", ["cause"], registry=registry)
        dropped = Counter(f"{PREFIX}_dropped", "Requests dropped before a stage", ["cause", "stage"], registry=registry)
        self.shed = Counter(f"{PREFIX}_shed", "Requests refused at the door", ["cause"], registry=registry)
        self.in_flight = Gauge(f"{PREFIX}_in_flight", "Requests worked on or waiting for a thread", registry=registry)
        self.limit = Gauge(f"{PREFIX}_concurrency_limit", "Requests that may be in flight", registry=registry)
        self.limit.set(settings.max_concurrency)
        self.threads = Gauge(
            f"{PREFIX}_threads", "The plan for threads, and the cores it was made for", ["part"], registry=registry
        )
        for part, count in threads.as_dict().items():
            self.threads.labels(part).set(count)
        # looking a child up costs three times what counting does
        self._degraded: dict[Cause, Counter] = {cause: degraded.labels(cause) for cause in CAUSES}
        self._dropped: dict[tuple[str, str], Counter] = {
            labels: dropped.labels(*labels) for labels in itertools.product(DROPPED, STAGES)
        }
        self._shed: dict[str, Counter] = {cause: self.shed.labels(cause) for cause in SHED}

    def _connections(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge(f"{PREFIX}_connections", "Open connections of clients", registry=registry)
        self.connection_limit = Gauge(f"{PREFIX}_connection_limit", "Connections that may be open", registry=registry)
        self.closes = Counter(f"{PREFIX}_connections_closed", "Connections closed, and refused", ["cause"], registry=registry)
        self.open_requests = Gauge(f"{PREFIX}_open_requests", "Requests being received or answered", registry=registry)
        _initialise(self.closes, [(cause,) for cause in CLOSES])

    def _snapshots(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge(f"{PREFIX}_ready", "1 while /readyz says so", registry=registry)
        self.snapshot = Gauge(
            f"{PREFIX}_snapshot_info", "The snapshot that serves", ["snapshot", "name", "index", "precision"], registry=registry
        )
        self.documents = Gauge(f"{PREFIX}_snapshot_documents", "Documents of the snapshot that serves", registry=registry)
        self.created = Gauge(f"{PREFIX}_snapshot_created_timestamp_seconds", "When it was made", registry=registry)
        self.loaded = Gauge(f"{PREFIX}_snapshot_loaded_timestamp_seconds", "When it began to serve", registry=registry)
        self.recall = Gauge(
            f"{PREFIX}_snapshot_golden_recall", "Recall of its golden queries when it was loaded", registry=registry
        )
        self.desired = Gauge(
            f"{PREFIX}_snapshot_desired_info", "The snapshot that operators want", ["snapshot"], registry=registry
        )
        self.converged = Gauge(f"{PREFIX}_snapshot_converged", "1 while what is wanted is what serves", registry=registry)
        self.swaps = Counter(f"{PREFIX}_swaps", "Attempts to serve another snapshot", ["outcome"], registry=registry)
        self.swap_failures = Counter(f"{PREFIX}_swap_failures", "Refused snapshots, by reason", ["code"], registry=registry)
        self.swap_seconds = Histogram(
            f"{PREFIX}_swap_seconds", "Time by step of loading a snapshot", ["step"], buckets=_SWAP_EDGES, registry=registry
        )
        self.loop_lag = Histogram(
            f"{PREFIX}_event_loop_lag_seconds", "How late the event loop was", ["swap"], buckets=_LAG_EDGES, registry=registry
        )
        self._lags = {running: self.loop_lag.labels(shown) for running, shown in ((False, "none"), (True, "running"))}
        self.swap_state = Gauge(f"{PREFIX}_swap_state", "1 for what is being done about snapshots", ["state"], registry=registry)
        _initialise(self.swaps, [(outcome,) for outcome in SWAP_OUTCOMES])
        _initialise(self.swap_failures, [(code,) for code in REFUSALS])
        _initialise(self.swap_seconds, [(step,) for step in STEPS])
        self.entered(SwapState.IDLE)

    def _build(self, registry: CollectorRegistry) -> None:
        names = ["python", *(library.replace("-", "_") for library in LIBRARIES)]
        self.build = Gauge(f"{PREFIX}_build_info", "Versions of what runs", names, registry=registry)
        self.build.labels(platform.python_version(), *map(_version, LIBRARIES)).set(1)
        available = Gauge(f"{PREFIX}_memory_available_bytes", "What the process may still take", registry=registry)
        available.set_function(_available)
        registry.register(CgroupCollector())
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def stages(self, spent_ms: Mapping[Stage, float], budget_ms: float, trace_id: str | None = None) -> None:
        """Observe where one request's time went, in the order of its stages, and what each left of its budget."""
        left = budget_ms
        for stage, value in spent_ms.items():
            left -= value
            self._stages[stage].observe(value / 1000, trace_id)
            self._left[stage].observe(left / 1000 if left > 0 else 0.0)

    def refusals(self) -> dict[str, float]:
        """Requests refused at the door so far, by cause; those that a shutdown refuses apart."""
        samples = [sample for metric in self.shed.collect() for sample in metric.samples if sample.name.endswith("_total")]
        return {sample.labels["cause"]: sample.value for sample in samples if sample.labels["cause"] != "draining"}

    def search_seconds(self) -> tuple[Sequence[float], list[int]]:
        """Of /search: edges of the buckets in seconds, and counts up to each and in all."""
        series = self.request_seconds.of("/search")
        return series.edges, series.read()[0]

    def searches(self) -> float:
        """Searches that were answered so far."""
        return sum(series.read()[0][-1] for series in self._expected_by.values())

    def degraded(self) -> dict[Cause, float]:
        """Searches that gave something up so far, by what; one that gave up both counts for each."""
        return {cause: _count(counter) for cause, counter in self._degraded.items()}

    def histograms(self, exemplars: bool = False) -> str:
        """The histograms that every request goes into, in the format that Prometheus and OpenMetrics share but for exemplars."""
        return "".join([family.text(exemplars) for family in self._histograms])

    def answered(self, route: str, status: int, seconds: float, trace_id: str | None = None) -> None:
        """Count an answer; ``trace_id`` is of a trace that is recorded."""
        counter = self._answers.get((route, status))
        if counter is None:
            counter = self._answers[route, status] = self.requests.labels(route, str(status))
        counter.inc()
        self.request_seconds.of(route).observe(seconds, trace_id)

    def timed(self, route: str, status: int, seconds: float, budget_ms: float) -> None:
        """Count an answer of a route that works on queries if it did not come within the request's own budget."""
        if status in SERVED and (status != HTTPStatus.OK or seconds * 1000 > budget_ms):
            self._over_budget[route].inc()

    def sent_elsewhere(self, route: str) -> None:
        """Count an answer that the balancer puts to another replica, since the budget was hopeless here."""
        self._sent_elsewhere[route].inc()

    def searched(self, plan: SearchPlan) -> None:
        """Count a search, and what it gave up."""
        self._of_effort("exact" if plan.exact else str(plan.effort)).inc()
        self._expected_by[plan.exact].observe(plan.expected_recall)
        for cause in plan.causes:
            self._degraded[cause].inc()

    def _of_effort(self, effort: str) -> Counter:
        counter = self._efforts.get(effort)
        if counter is None:
            counter = self._efforts[effort] = self._searches.labels(effort)
        return counter

    def encoded(self, rows: int) -> None:
        """Count a call of the graph with so many single queries."""
        self._rows.observe(rows)

    def dropped_before(self, error: DeadlineExceededError | CallerGoneError) -> None:
        """Count a request that was dropped, by the stage that was not begun."""
        cause = "late" if isinstance(error, DeadlineExceededError) else "gone"
        self._dropped[cause, error.stage].inc()

    def refused(self, error: OverloadedError | DrainingError) -> None:
        """Count a request that was refused at the door."""
        self._shed[error.code].inc()

    def lagged(self, seconds: float, *, swapping: bool) -> None:
        """Observe how late the event loop was, and whether a snapshot was being loaded then."""
        self._lags[swapping].observe(seconds)

    def routes(self, templates: Iterable[str]) -> None:
        """Let the series of known routes exist from the start, and those that an objective counts: the first fault is one."""
        for template in templates:
            for status in (200, *(FAILURES if template in WORK_ROUTES else ())):
                self.requests.labels(template, str(status))
            self.request_seconds.of(template)

    def observe_desired(self, desired: str | None, serving: str | None) -> None:
        """Refresh what is wanted against what serves; called before each scrape."""
        self.desired.clear()
        if desired is not None:
            self.desired.labels(desired).set(1)
        self.converged.set(desired is not None and desired == serving)

    def entered(self, state: SwapState) -> None:
        """SwapObserver: another state."""
        for other in SwapState:
            self.swap_state.labels(other.value).set(other is state)

    def replaced(self, new: Generation, old: str | None) -> None:  # noqa: ARG002 - the observer's signature
        """SwapObserver: ``new`` serves."""
        self.swaps.labels("replaced").inc()
        for step, seconds in new.load_seconds.items():
            self.swap_seconds.labels(step).observe(seconds)
        self._serves(new)

    def returned(self, to: Generation, left: str) -> None:  # noqa: ARG002 - as above
        """SwapObserver: what served before serves again, without having been loaded."""
        self.swaps.labels("returned").inc()
        self._serves(to)

    def _serves(self, new: Generation) -> None:
        manifest = new.manifest
        self.snapshot.clear()
        self.snapshot.labels(manifest.id, manifest.name, manifest.index.kind, manifest.query_tower.precision).set(1)
        self.documents.set(manifest.documents.count)
        self.created.set(manifest.created_at.timestamp())
        self.loaded.set(time.time())
        self.recall.set(new.proof.recall)
        for effort in ("exact", *(str(row.effort) for row in manifest.index.efforts)):
            self._of_effort(effort)

    def failed(self, snapshot: str | None, code: str) -> None:  # noqa: ARG002 - ids would make series without bound
        """SwapObserver: a snapshot was refused, for one of ``REFUSALS``."""
        self.swaps.labels("failed").inc()
        self.swap_failures.labels(code).inc()

    def closed(self, snapshot: str, freed: Freed) -> None:
        """SwapObserver: a generation is closed, and its memory given back."""
        self.gate.freed(freed)
        _log.info(
            "snapshot_closed",
            snapshot=snapshot,
            returned_bytes=freed.bytes,
            resident_before_bytes=freed.before_bytes,
            resident_after_bytes=freed.after_bytes,
        )

    def vitals(self) -> Vitals:
        """Answers of the routes that work on queries, errors and late ones among them; late is also what was sent elsewhere."""
        found = {200: 0.0, 500: 0.0, 504: 0.0}
        for (route, status), counter in list(self._answers.items()):
            if status in found and route in WORK_ROUTES:
                found[status] += _count(counter)
        elsewhere = sum(map(_count, self._sent_elsewhere.values()))
        late = found.pop(504) + elsewhere
        over = elsewhere + sum(map(_count, self._over_budget.values()))
        return Vitals(sum(found.values()) + late, found[500], late, over, self.budgets.read())


def _initialise(metric: Counter | Histogram, label_sets: Iterable[tuple[str, ...]]) -> None:
    for labels in label_sets:
        metric.labels(*labels)


def _count(counter: Counter) -> float:
    [family] = counter.collect()
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def _available() -> float:
    return math.nan if (found := available_bytes()) is None else found


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
        return ""
