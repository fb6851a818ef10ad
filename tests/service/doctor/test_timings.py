"""Stages against the manifest's figures, on engines and encoders that take as long as a test wants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock
from serving import hooked, slow

from service.doctor.timings import SERVED_TOWER, Timing, check_timing, recorded_encoding, time_stages
from service.generation import Generation, GenerationOptions, open_generation
from snapshot.layout import Layout


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    opened = open_generation(make_snapshot(tmp_path_factory.mktemp("registry"), kind="hnsw"), GenerationOptions(), print)
    yield opened
    opened.close()


def times(generation: Generation, **costs_ms: float) -> dict[str, Timing]:
    """By stage, on a clock that only what is hooked moves."""
    clock = ManualClock()
    return {
        timing.stage: timing for timing in time_stages(hooked(generation, slow(clock, costs_ms)), generation.layout, clock=clock)
    }


def test_every_stage_is_timed_and_compared_with_what_was_recorded(generation: Generation) -> None:
    found = times(generation, search=0.15, fetch=0.3)
    assert list(found) == ["encode", "search at 16", "search at 64", "fetch"]
    assert (found["search at 64"].p50_ms, found["search at 64"].recorded_p50_ms) == (pytest.approx(0.15), 0.1)
    assert {check_timing(found[stage]).verdict for stage in ("search at 16", "search at 64", "fetch")} == {"ok"}


def test_a_slow_engine_is_found_and_nothing_else(generation: Generation) -> None:
    verdicts = {stage: check_timing(timing).verdict for stage, timing in times(generation, search=2.0).items()}
    assert verdicts == {"encode": "unknown", "search at 16": "wrong", "search at 64": "wrong", "fetch": "ok"}


@pytest.mark.parametrize(("ms", "verdict"), [(0.3, "ok"), (0.31, "warn"), (1.0, "warn"), (1.01, "wrong")])
def test_where_slow_begins(ms: float, verdict: str) -> None:
    assert check_timing(Timing("search at 64", ms, ms, 0.1, 0.2, "the table")).verdict == verdict


def test_the_query_tower_is_compared_with_the_evaluations_report(generation: Generation, tmp_path: Path) -> None:
    report = Layout(tmp_path).report / "report.json"
    report.parent.mkdir()
    towers = [
        {"tower": name, "p50_ms": ms, "p99_ms": 2 * ms, "queries": 9} for name, ms in (("a", 9.0), ("student, as served", 0.5))
    ]
    report.write_text(json.dumps({"latencies": towers, "more": 1}))
    recorded = recorded_encoding(Layout(tmp_path))
    assert recorded is not None
    assert recorded.p50_ms == 0.5
    clock = ManualClock()
    slow_encoder = hooked(replace(generation), slow(clock, {"search": 0.1}))
    encode = next(timing for timing in time_stages(slow_encoder, Layout(tmp_path), clock=clock) if timing.stage == "encode")
    assert (encode.recorded_p50_ms, encode.by) == (0.5, "report.json of the evaluation")


def test_the_tower_has_the_name_that_the_evaluation_gives_it() -> None:
    goals = Path(__file__).parents[3] / "offline" / "goals.py"
    assert f'SERVED_TOWER = "{SERVED_TOWER}"' in goals.read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"latencies": 1}', '{"latencies": []}'])
def test_a_report_without_latencies_records_nothing(tmp_path: Path, content: str) -> None:
    path = Layout(tmp_path).report / "report.json"
    path.parent.mkdir()
    path.write_text(content)
    assert recorded_encoding(Layout(tmp_path)) is None


def test_others_may_go_first_between_two_queries(generation: Generation) -> None:
    asked: list[int] = []
    time_stages(generation, generation.layout, lambda: asked.append(1))
    assert len(asked) == 16 * 4
