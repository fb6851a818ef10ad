"""What a machine gives: each figure by a table, and files as control groups have them."""

from __future__ import annotations

import resource

import pytest

from service.cgroup import Usage
from service.cores import plan_threads
from service.doctor.findings import Verdict
from service.doctor.machine import check_cores, check_files, check_memory, check_threads, check_throttling, check_variables

GB = 10**9


@pytest.mark.parametrize(
    ("quota", "verdict", "word"), [(None, "ok", "quota none"), (2.5, "ok", "quota 2.5"), (0.5, "wrong", "quota 0.5")]
)
def test_cores(quota: float | None, verdict: Verdict, word: str) -> None:
    found = check_cores(8, 4, quota)
    assert (found.verdict, word in found.seen) == (verdict, True)
    assert bool(found.advice) == (verdict != "ok")


@pytest.mark.parametrize(
    ("workers", "encoder", "verdict"), [(None, None, "ok"), (8, None, "wrong"), (2, 3, "wrong"), (4, 1, "ok")]
)
def test_threads(workers: int | None, encoder: int | None, verdict: Verdict) -> None:
    assert check_threads(plan_threads(4, workers, encoder)).verdict == verdict


@pytest.mark.parametrize(
    ("usage", "verdict"),
    [
        (Usage(), "ok"),
        (Usage(periods=0, throttled_periods=0), "ok"),
        (Usage(periods=1000, throttled_periods=49, throttled_seconds=1.0), "ok"),
        (Usage(periods=1000, throttled_periods=50, throttled_seconds=1.0), "warn"),
    ],
)
def test_throttling(usage: Usage, verdict: Verdict) -> None:
    assert check_throttling(usage).verdict == verdict


@pytest.mark.parametrize(
    ("available", "limit", "verdict"),
    [(None, None, "unknown"), (2 * GB, 4 * GB, "ok"), (GB // 4, 4 * GB, "wrong"), (8 * GB, None, "ok")],
)
def test_memory(available: int | None, limit: float | None, verdict: Verdict) -> None:
    assert check_memory(available, limit).verdict == verdict


@pytest.mark.parametrize(
    ("hard", "asked", "verdict"),
    [
        (resource.RLIM_INFINITY, None, "ok"),
        (65_536, None, "ok"),
        (1024, None, "warn"),
        (256, None, "wrong"),
        (1024, 768, "ok"),
        (1024, 769, "wrong"),
    ],
)
def test_files(hard: int, asked: int | None, verdict: Verdict) -> None:
    assert check_files(hard, asked).verdict == verdict


def test_a_variable_that_is_no_setting_is_named_with_what_was_meant() -> None:
    found = check_variables({"SCALINGNOTE_PORTT": "SCALINGNOTE_PORT", "SCALINGNOTE_XQZ": None})
    assert (found.verdict, found.seen) == ("warn", "not settings: SCALINGNOTE_PORTT, SCALINGNOTE_XQZ")
    assert "SCALINGNOTE_PORTT: did you mean SCALINGNOTE_PORT?" in found.advice
    assert check_variables({}).verdict == "ok"
