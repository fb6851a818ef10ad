"""Instruments: buckets, series that exist from the start, and what observers of swaps leave behind."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from prometheus_client import CollectorRegistry

from service.cores import ThreadPlan
from service.errors import CallerGoneError, DeadlineExceededError, DrainingError, OverloadedError
from service.failures import REFUSALS, REMOTE_FAILURES
from service.generation import GenerationOptions, open_generation
from service.metrics import Metrics, edges
from service.plan import CAUSES, SearchPlan
from service.settings import Settings
from service.swap import SwapState
from service.walk import STAGES, Stage
from snapshot.errors import FleetError, GateRefusedError, RemoteDeniedError, RemoteError, SnapshotError


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
        ("scalingnote_swap_seconds_count", {"step": "shadowing"}),
        ("scalingnote_stage_seconds_count", {"stage": "search"}),
        ("scalingnote_stage_budget_left_seconds_count", {"stage": "reply"}),
        ("scalingnote_swap_failures_total", {"code": "hash_mismatch"}),
        ("scalingnote_swap_failures_total", {"code": "gate_recall"}),
        ("scalingnote_swap_failures_total", {"code": "rolled_back"}),
        ("scalingnote_remote_failures_total", {"code": "remote_unavailable"}),
        ("scalingnote_live_samples_total", {"work": "recall", "outcome": "dropped"}),
        ("scalingnote_live_samples_total", {"work": "teacher", "outcome": "failed"}),
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


def test_answers_are_counted_by_route_and_status_and_those_in_budget_exactly(metrics: Metrics) -> None:
    for seconds in (0.001, 0.05, 0.050001, 3.0):
        metrics.answered("/search", 200, seconds)
    metrics.answered("/search", 429, 0.0001)
    value = metrics.registry.get_sample_value
    assert value("scalingnote_requests_total", {"route": "/search", "code": "200"}) == 4
    assert value("scalingnote_requests_total", {"route": "/search", "code": "429"}) == 1
    assert value("scalingnote_request_seconds_bucket", {"route": "/search", "le": "0.05"}) == 3
    assert value("scalingnote_request_seconds_bucket", {"route": "/search", "le": "2.0"}) == 4
    assert value("scalingnote_request_seconds_count", {"route": "/search"}) == 5
    assert value("scalingnote_request_seconds_sum", {"route": "/search"}) == pytest.approx(3.101101)


def test_a_search_counts_its_effort_what_it_gave_up_and_the_recall_to_expect(metrics: Metrics) -> None:
    whole = SearchPlan(effort=64, exact=False, with_fields=True, causes=(), expected_recall=0.97)
    metrics.searched(whole)
    metrics.searched(replace(whole, effort=16, causes=("deadline_effort",), expected_recall=0.81))
    metrics.searched(replace(whole, exact=True, with_fields=False, causes=("deadline_fields",), expected_recall=1.0))
    value = metrics.registry.get_sample_value
    assert {effort: value("scalingnote_searches_total", {"effort": effort}) for effort in ("16", "64", "exact")} == {
        "16": 1, "64": 1, "exact": 1,
    }  # fmt: skip
    assert [value("scalingnote_degraded_total", {"cause": cause}) for cause in CAUSES] == [1, 1]
    assert value("scalingnote_expected_recall_sum", {"exact": "false"}) == pytest.approx(1.78)
    assert value("scalingnote_expected_recall_bucket", {"exact": "false", "le": "0.9"}) == 1
    assert value("scalingnote_expected_recall_sum", {"exact": "true"}) == 1


def test_efforts_of_a_table_have_their_series_from_when_it_serves(metrics: Metrics, tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=30, kind="hnsw")
    new = open_generation(layout, GenerationOptions(), lambda step: None)
    metrics.replaced(new, None)
    new.close()
    for effort in ("exact", *(str(row.effort) for row in new.manifest.index.efforts)):
        assert metrics.registry.get_sample_value("scalingnote_searches_total", {"effort": effort}) == 0


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_dropped_before_any_stage_is_counted(metrics: Metrics, stage: Stage) -> None:
    metrics.dropped_before(DeadlineExceededError("late", stage, {}))
    metrics.dropped_before(CallerGoneError(stage))
    metrics.dropped_before(CallerGoneError(stage))
    value = metrics.registry.get_sample_value
    assert value("scalingnote_dropped_total", {"cause": "late", "stage": stage}) == 1
    assert value("scalingnote_dropped_total", {"cause": "gone", "stage": stage}) == 2


def test_refusals_leave_those_of_a_shutdown_apart(metrics: Metrics) -> None:
    metrics.refused(OverloadedError("full", 1.0))
    metrics.refused(DrainingError("shutting down"))
    metrics.refused(DrainingError("shutting down"))
    assert metrics.refusals() == {"overloaded": 1}
    assert metrics.registry.get_sample_value("scalingnote_shed_total", {"cause": "draining"}) == 2


def test_queries_of_a_call_are_counted_together(metrics: Metrics) -> None:
    for rows in (1, 1, 4, 5):
        metrics.encoded(rows)
    value = metrics.registry.get_sample_value
    counts = [
        value("scalingnote_batch_rows_bucket", {"graph": "query_tower", "le": edge}) for edge in ("1.0", "2.0", "4.0", "8.0")
    ]
    assert counts == [2, 2, 3, 4]
    assert value("scalingnote_batch_rows_sum", {"graph": "query_tower"}) == 11


def test_series_are_bounded_whatever_is_counted(metrics: Metrics) -> None:
    def series() -> int:
        return sum(len(metric.samples) for metric in metrics.registry.collect())

    metrics.routes(["/search"])
    before = series()
    for number in range(100):
        metrics.answered("/search", 200, number / 7, f"{number:032x}")
        metrics.encoded(number)
        metrics.stages(dict.fromkeys(STAGES, number), 50.0, f"{number:032x}")
    for error in _below(SnapshotError):
        metrics.failed(f"another-{error.code}", _code(error))
        metrics.remote.mirror_failed(RemoteDeniedError.code)
    assert series() == before


def _below(kind: type[SnapshotError]) -> Iterator[type[SnapshotError]]:
    """What can be wrong with a snapshot itself."""
    for below in kind.__subclasses__():
        if below not in (FleetError, RemoteError):
            yield below
            yield from _below(below)


def _code(kind: type[SnapshotError]) -> str:
    return GateRefusedError("x", "p99").code if kind is GateRefusedError else kind.code


@pytest.mark.parametrize("codes", [REFUSALS, REMOTE_FAILURES])
def test_codes_of_failures_are_there_once_and_internal_among_them(codes: tuple[str, ...]) -> None:
    assert len(set(codes)) == len(codes) < 60
    assert {"internal", "hash_mismatch", "disk_full"} <= {*codes}
    assert ("remote_denied" in codes) is ("gate_recall" not in codes)


def test_objectives_are_exported_as_they_are_set() -> None:
    settings = Settings(registry=Path("none"), slo_availability=0.995, slo_overlap=0.7, slo_snapshot_age_seconds=86_400)
    value = Metrics(CollectorRegistry(), settings, ThreadPlan(cores=1, workers=1, encoder=1)).registry.get_sample_value
    targets = {slo: value("scalingnote_slo_target", {"slo": slo}) for slo in ("availability", "in_budget", "recall", "overlap")}
    assert targets == {"availability": 0.995, "in_budget": 0.99, "recall": 0.9, "overlap": 0.7}
    assert value("scalingnote_slo_snapshot_age_seconds") == 86_400


@pytest.mark.parametrize(
    ("status", "seconds", "counted"),
    [(200, 0.049, 0), (200, 0.051, 1), (504, 0.001, 1), (504, 0.051, 1), (429, 0.2, 0), (500, 0.2, 0), (499, 0.2, 0)],
)
def test_answers_count_as_over_budget_by_their_own_budget(metrics: Metrics, status: int, seconds: float, counted: int) -> None:
    metrics.timed("/search", status, seconds, 50.0)
    assert metrics.registry.get_sample_value("scalingnote_over_budget_total", {"route": "/search"}) == counted


def test_the_first_fault_of_a_route_that_works_on_queries_is_an_increase(metrics: Metrics) -> None:
    metrics.routes(["/search", "/livez"])
    value = metrics.registry.get_sample_value
    assert [value("scalingnote_requests_total", {"route": "/search", "code": code}) for code in ("429", "500", "503", "504")] == [
        0
    ] * 4
    assert value("scalingnote_requests_total", {"route": "/livez", "code": "500"}) is None


def test_what_is_left_of_the_budget_is_told_stage_by_stage(metrics: Metrics) -> None:
    metrics.stages({"queue": 10.0, "search": 30.0, "reply": 15.0}, 50.0)
    value = metrics.registry.get_sample_value
    left = {stage: value("scalingnote_stage_budget_left_seconds_sum", {"stage": stage}) for stage in ("queue", "search", "reply")}
    assert left == pytest.approx({"queue": 0.04, "search": 0.01, "reply": 0.0})
    assert value("scalingnote_stage_budget_left_seconds_bucket", {"stage": "reply", "le": "0.0"}) == 1
    assert value("scalingnote_stage_budget_left_seconds_bucket", {"stage": "search", "le": "0.0"}) == 0
