"""The page says what the result says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.figures import QUANTILES, Row
from tests.bench.page import PAGE, SUMMARY, Summary, render, write_page
from tests.bench.result import Result, read_result

DOCS = Path(__file__).parents[2] / "docs"


def load_row(group, subject, load, number, **figures):
    given = {"p50_ms": 1.0 + number, "p99_ms": 3.0, "accepted_per_second": 100.0, "cpu_ms": 1.0, **figures}
    return Row(group, subject, load, number, given, [float(place) for place in range(len(QUANTILES))])


@pytest.fixture
def result():
    stages = {f"{stage}_p50_ms": 0.5 for stage in ("tokenize", "encode", "search")}
    rows = [load_row("floor", "floor", "c=1", number, **stages) for number in range(3)]
    rows += [load_row("floor", "ours", load, number) for number in range(3) for load in ("c=1", "c=32")]
    loads = ["capacity", "50%", "70%", "90%", "300%"]
    turned_away = {"refused_share": 0.5, "late_share": 0.0, "refused_p99_ms": 1.5, "good_share": 0.5, "good_per_second": 90.0}
    rows += [load_row("overload", "ours", load, 0, offered_per_second=50.0, **turned_away) for load in loads]
    return Result(
        command="make bench ARGS='--quick'",
        finished_at=datetime(2026, 1, 2, tzinfo=UTC),
        commit="abc1234",
        machine={"cores": "2"},
        versions={"python": "3.11"},
        about={"sizes": "10000"},
        rows=rows,
    )


def test_a_result_survives_its_file(result, tmp_path):
    result.write(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"command": "make bench"}', "no record of a run (finished_at: Field required)"),
        ("not JSON", "no record of a run (the file: Invalid JSON"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_result_is_said_in_a_line(tmp_path, content, message):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(path)])
    [line] = str(ended.value).splitlines()
    assert line.startswith(f"{path}: {message}")
    assert "name the JSON that a run of make bench wrote" in line


def test_the_page_names_command_commit_and_every_goal(result, tmp_path):
    (tmp_path / "performance-notes.md").write_text("## Why\n\nBecause.")
    write_page(result, tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert "make bench ARGS='--quick'" in page
    assert "abc1234" in page
    assert "Because." in page
    assert result.verdicts
    for verdict in result.verdicts:
        assert verdict.line() in page
    for name in ("bench-floor.png", "bench-overload.png"):
        assert f"images/{name}" in page
        assert (tmp_path / "images" / name).stat().st_size > 1000


def test_the_committed_page_is_what_its_summary_says():
    summary = Summary.model_validate_json((DOCS / SUMMARY).read_bytes())
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    assert page == render(summary)
    assert summary.command in page
    assert summary.goals
    assert all(goal.line() in page for goal in summary.goals)
    assert all((DOCS / "images" / name).is_file() for name in summary.images)
