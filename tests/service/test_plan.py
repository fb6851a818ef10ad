"""The degradation ladder, as a table."""

import pytest

from service.plan import FETCH_MS, FETCH_MS_PER_HIT, Cause, plan_search
from snapshot.manifest import Effort, FlatIndex, HnswIndex


def effort(number: int, recall: float, p50: float, p99: float) -> Effort:
    return Effort(effort=number, recall_at_10=recall, p50_ms=p50, p99_ms=p99)


HNSW = HnswIndex(
    reason="",
    m=16,
    ef_construction=100,
    default_effort=64,
    efforts=(effort(16, 0.8, 0.5, 1.0), effort(32, 0.9, 1.0, 2.0), effort(64, 0.96, 2.0, 4.0), effort(256, 0.99, 8.0, 16.0)),
)
FLAT = FlatIndex(reason="", default_effort=0, efforts=(effort(0, 1.0, 3.0, 5.0),))

K = 50
FETCH = FETCH_MS + K * FETCH_MS_PER_HIT  # 1 ms

Rung = tuple[int, bool, tuple[Cause, ...], float]


@pytest.mark.parametrize(
    ("remaining_ms", "expected"),
    [
        (1000, (64, True, (), 0.96)),
        (4.0 + FETCH, (64, True, (), 0.96)),
        (4.9, (32, True, ("deadline_effort",), 0.9)),
        (2.9, (16, True, ("deadline_effort",), 0.8)),
        (1.9, (16, False, ("deadline_effort", "deadline_fields"), 0.8)),
        (0.5, (16, False, ("deadline_effort", "deadline_fields"), 0.8)),
        (0.4, None),
        (0.0, None),
        (-5.0, None),
    ],
)
def test_less_time_takes_a_lower_rung(remaining_ms: float, expected: Rung | None) -> None:
    plan = plan_search(remaining_ms, HNSW, K, exact=False, fields=True)
    got = None if plan is None else (plan.effort, plan.with_fields, plan.causes, plan.expected_recall)
    assert got == expected


@pytest.mark.parametrize(
    ("remaining_ms", "expected"),
    [
        (1000, (True, ())),
        (6.0, (True, ())),
        (5.9, (False, ("deadline_fields",))),
        (3.0, (False, ("deadline_fields",))),
        (2.9, None),
    ],
)
def test_a_flat_index_has_only_fields_to_give_up(remaining_ms: float, expected: tuple[bool, tuple[Cause, ...]] | None) -> None:
    plan = plan_search(remaining_ms, FLAT, K, exact=False, fields=True)
    assert (None if plan is None else (plan.with_fields, plan.causes)) == expected


@pytest.mark.parametrize("remaining_ms", [1000, 1.0, 0.6])
def test_fields_that_nobody_asked_for_are_no_loss(remaining_ms: float) -> None:
    plan = plan_search(remaining_ms, HNSW, K, exact=False, fields=False)
    assert plan is not None
    assert not plan.with_fields
    assert "deadline_fields" not in plan.causes


def test_exact_search_keeps_its_recall_and_gives_up_fields_only() -> None:
    full = plan_search(10, HNSW, K, exact=True, fields=True)
    late = plan_search(FETCH / 2, HNSW, K, exact=True, fields=True)
    assert full is not None
    assert late is not None
    assert (full.exact, full.with_fields, full.causes, full.expected_recall) == (True, True, (), 1.0)
    assert (late.exact, late.with_fields, late.causes, late.expected_recall) == (True, False, ("deadline_fields",), 1.0)
    assert plan_search(-1, HNSW, K, exact=True, fields=True) is None


def test_more_hits_need_more_time_to_fetch() -> None:
    few, many = (plan_search(8.0, HNSW, k, exact=False, fields=True) for k in (10, 1000))
    assert few is not None
    assert many is not None
    assert (few.effort, few.with_fields) == (64, True)
    assert (many.effort, many.with_fields) == (16, False)


def test_an_effort_above_the_default_is_never_taken() -> None:
    assert plan_search(1e9, HNSW, K, exact=False, fields=True).effort == 64


def test_more_time_never_means_less() -> None:
    plans = [plan_search(ms / 10, HNSW, K, exact=False, fields=True) for ms in range(100)]
    worth = [(-1.0, False) if plan is None else (plan.expected_recall, plan.with_fields) for plan in plans]
    assert worth == sorted(worth)
