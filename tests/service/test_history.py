"""The service's own fifteen minutes: differences of totals, quantiles from buckets, and a bound on what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry

from service.cores import ThreadPlan
from service.history import INTERVAL_SECONDS, KEPT_SECONDS, History, quantile_ms
from service.metrics import Metrics
from service.plan import SearchPlan
from service.settings import Settings

BUDGET_MS = 50.0
WHOLE = SearchPlan(64, exact=False, with_fields=True, causes=(), expected_recall=0.99)
LESS = SearchPlan(16, exact=False, with_fields=True, causes=("deadline_effort",), expected_recall=0.9)


class Bench:
    """A history of real instruments, and a clock that a test moves."""

    def __init__(self, recall: float | None = None) -> None:
        settings = Settings(registry=Path("registry"), default_timeout_ms=BUDGET_MS)
        self.metrics = Metrics(CollectorRegistry(), settings, ThreadPlan(cores=2, workers=2, encoder=1))
        self.clock = ManualClock()
        self.history = History(self.metrics, BUDGET_MS, self.clock, lambda: recall)

    def later(self) -> None:
        self.clock.advance_ms(1000 * INTERVAL_SECONDS)
        self.history.tick()


def test_a_sample_tells_what_happened_since_the_last_one() -> None:
    bench = Bench(recall=0.97)
    bench.metrics.answered("/search", 200, 9.0)
    bench.later()
    for _ in range(8):
        bench.metrics.answered("/search", 200, 0.010)
        bench.metrics.searched(WHOLE)
    for status in (504, 500):
        bench.metrics.answered("/search", status, 0.060)
        bench.metrics.timed("/search", status, 0.060, BUDGET_MS)
    bench.metrics.searched(LESS)
    bench.metrics.searched(LESS)
    bench.later()
    sample = bench.history.samples[-1]
    assert sample.seconds == pytest.approx(INTERVAL_SECONDS)
    assert sample.requests_per_second == pytest.approx(10 / INTERVAL_SECONDS)
    assert sample.answers_per_second == pytest.approx(10 / INTERVAL_SECONDS)
    assert sample.in_budget_share == pytest.approx(0.8)
    assert sample.p50_ms == pytest.approx(10, rel=0.42)
    assert sample.p99_ms == pytest.approx(60, rel=0.42)
    assert sample.degraded_share == {"deadline_effort": pytest.approx(0.2), "deadline_fields": 0.0}
    assert (sample.late_per_second, sample.failed_per_second) == (pytest.approx(0.2), pytest.approx(0.2))
    assert sample.recall == 0.97


def test_refusals_are_not_within_the_budget_and_what_comes_too_late_neither() -> None:
    bench = Bench()
    for _ in range(90):
        bench.metrics.answered("/search", 429, 0.001)
    for seconds in (0.010, 2 * BUDGET_MS / 1000):
        bench.metrics.answered("/search", 200, seconds)
        bench.metrics.timed("/search", 200, seconds, BUDGET_MS)
    bench.later()
    assert bench.history.samples[-1].in_budget_share == pytest.approx(0.5)
    assert bench.history.samples[-1].answers_per_second == pytest.approx(2 / INTERVAL_SECONDS)


def test_without_requests_nothing_is_made_up() -> None:
    bench = Bench()
    bench.later()
    [sample] = bench.history.samples
    assert sample.requests_per_second == 0
    assert [sample.p50_ms, sample.p99_ms, sample.in_budget_share, sample.degraded_share, sample.recall] == [None] * 5


def test_a_tick_between_two_samples_takes_none() -> None:
    bench = Bench()
    for _ in range(20):
        bench.clock.advance_ms(100)
        bench.history.tick()
    assert bench.history.samples == []


def test_only_fifteen_minutes_are_kept() -> None:
    bench = Bench()
    for _ in range(400):
        bench.later()
    assert sum(sample.seconds for sample in bench.history.samples) == pytest.approx(KEPT_SECONDS)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_within_its_bucket(share: float) -> None:
    values = np.random.default_rng(3).lognormal(-4, 1, 5000)
    edges = [0.001 * 2**i for i in range(12)]
    cumulative = [int((values <= edge).sum()) for edge in edges] + [len(values)]
    found, exact = quantile_ms(share, edges, cumulative), float(np.quantile(values, share, method="inverted_cdf"))
    assert found is not None
    assert exact / 2 <= found / 1000 <= exact * 2


def test_beyond_the_last_edge_a_quantile_is_that_edge() -> None:
    assert quantile_ms(0.99, [0.1, 0.2], [0, 0, 5]) == pytest.approx(200)
