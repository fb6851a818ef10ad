"""Instruments: buckets, series that exist from the start, and what observers of swaps leave behind."""

import itertools
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from prometheus_client import CollectorRegistry

from service.cores import ThreadPlan
from service.generation import GenerationOptions, open_generation
from service.metrics import Metrics, edges
from service.settings import Settings
from service.swap import SwapState


@pytest.fixture
def metrics() -> Metrics:
    settings = Settings(registry=Path("none"), default_timeout_ms=50, max_timeout_ms=2000)
    return Metrics(CollectorRegistry(), settings, ThreadPlan(cores=4, workers=3, encoder=1))


def test_buckets_are_geometric_and_every_budget_is_an_edge() -> None:
    found = edges([0.05, 2.0, 0.0123])
    assert found[0] == 0.00025
    assert {0.05, 2.0, 0.0123} <= set(found)
    assert found == sorted(set(found))
    ratios = [after / before for before, after in itertools.pairwise(found)]
    assert max(ratios) < 1.43


def test_budgets_are_exported(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    assert value("scalingnote_budget_seconds", {"budget": "default"}) == 0.05
    assert value("scalingnote_budget_seconds", {"budget": "max"}) == 2.0
    assert value("scalingnote_request_seconds_bucket", {"route": "/search", "le": "0.05"}) is None
    metrics.routes(["/search"])
    assert value("scalingnote_request_seconds_bucket", {"route": "/search", "le": "0.05"}) == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("scalingnote_degraded_total", {"cause": "deadline_effort"}),
        ("scalingnote_dropped_total", {"cause": "late", "stage": "encode"}),
        ("scalingnote_dropped_total", {"cause": "gone", "stage": "render"}),
        ("scalingnote_shed_total", {"cause": "overloaded"}),
        ("scalingnote_swaps_total", {"outcome": "failed"}),
        ("scalingnote_swap_seconds_count", {"step": "proving"}),
        ("scalingnote_stage_seconds_count", {"stage": "search"}),
    ],
)
def test_known_series_exist_at_zero(metrics: Metrics, name: str, labels: dict[str, str]) -> None:
    assert metrics.registry.get_sample_value(name, labels) == 0


def test_a_swap_leaves_one_snapshot(metrics: Metrics, tmp_path: Path) -> None:
    value = metrics.registry.get_sample_value
    for seed in (0, 1):
        layout = make_snapshot(tmp_path, rows=30, seed=seed)
        new = open_generation(layout, GenerationOptions(), lambda step: metrics.entered(SwapState(step)))
        metrics.replaced(new, None)
        new.close()
    [sample] = [s for metric in metrics.registry.collect() if metric.name == "scalingnote_snapshot_info" for s in metric.samples]
    assert sample.labels == {"snapshot": layout.root.name, "name": "toy", "index": "flat", "precision": "fp32"}
    assert value("scalingnote_snapshot_documents") == 30
    assert value("scalingnote_swaps_total", {"outcome": "replaced"}) == 2
    assert value("scalingnote_swap_seconds_count", {"step": "warming"}) == 2
    assert value("scalingnote_swap_state", {"state": "warming"}) == 1
    assert value("scalingnote_swap_state", {"state": "idle"}) == 0


def test_refusals_are_counted_by_code_and_desire_is_shown_apart(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    metrics.failed("some-id", "hash_mismatch")
    metrics.observe_desired("new", "old")
    assert value("scalingnote_swap_failures_total", {"code": "hash_mismatch"}) == 1
    assert value("scalingnote_snapshot_converged") == 0
    metrics.observe_desired("new", "new")
    assert value("scalingnote_snapshot_desired_info", {"snapshot": "new"}) == 1
    assert value("scalingnote_snapshot_converged") == 1
    metrics.observe_desired(None, None)
    assert value("scalingnote_snapshot_desired_info", {"snapshot": "new"}) is None
    assert value("scalingnote_snapshot_converged") == 0
