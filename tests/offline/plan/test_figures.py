"""Figures are those of the bench, can be replaced, and are refused by name where they make no sense."""

import json
import tomllib
from pathlib import Path

import pytest

from offline.errors import PlanError
from offline.plan.bench import figures_of
from offline.plan.demand import Box, Demand
from offline.plan.figures import MAY_BE_NOTHING, OURS, Figure, load_figures
from offline.plan.make import make_plan
from offline.plan.operating import Point
from tests.scale.measure import bench_tables

PERFORMANCE = Path(__file__).parents[3] / "docs" / "performance.json"
ANEW = "take the tables that `python -m tests.scale.measure --bench docs/performance.json` prints into offline/plan/figures.toml"


def test_ours_are_those_of_the_published_bench() -> None:
    figures, shape = figures_of(json.loads(PERFORMANCE.read_text(encoding="utf-8")), "docs/performance.json")
    ours = load_figures()
    for name, figure in figures.items():
        assert (figure.least, figure.mid, figure.greatest) == pytest.approx(
            (ours.by_name[name].least, ours.by_name[name].mid, ours.by_name[name].greatest)
        ), f"{name}: {ANEW}"
    assert shape == ours.shape, ANEW


def test_the_command_prints_them_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bench.toml"
    path.write_text(bench_tables(PERFORMANCE))
    again, ours = load_figures(path), load_figures()
    assert {name: figure.mid for name, figure in again.by_name.items()} == {name: each.mid for name, each in ours.by_name.items()}
    assert again.shape.quantiles_ms == ours.shape.quantiles_ms


def test_every_measured_figure_says_when_and_how() -> None:
    for name, figure in load_figures().by_name.items():
        assert figure.source
        assert (figure.date is not None) == (figure.kind == "measured"), name


def test_the_bad_end_is_the_one_that_costs_more() -> None:
    slow = Figure(mid=2, low=1, high=3, unit="ms", kind="assumed", source="")
    rate = slow.model_copy(update={"worse": "low"})
    assert [slow.at(end) for end in ("good", "likely", "bad")] == [1, 2, 3]
    assert [rate.at(end) for end in ("good", "likely", "bad")] == [3, 2, 1]


def test_a_file_replaces_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '\ufeff[figures.front_ms]\nmid = 9.5\nunit = "core ms"\nkind = "measured"\ndate = 2026-01-01\nsource = "mine"\n'
    )
    mine, ours = load_figures(path), load_figures()
    assert mine.by_name["front_ms"].greatest == 9.5
    assert mine.by_name["hnsw_ms_1m"] == ours.by_name["hnsw_ms_1m"]


def test_the_result_of_a_bench_replaces_the_service(tmp_path: Path) -> None:
    """Rows as ``tests.bench.result`` writes them: twice as fast as the published ones."""
    rows = list(_rows(answers=1182.0))
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"machine": {"cores": "4"}, "finished_at": "2026-12-01T00:00:00Z", "rows": rows}))
    found = load_figures(path)
    assert found.by_name["replica_cores"].mid == 4
    assert found.by_name["front_ms"].mid == pytest.approx(4000 / 1182 - 0.5, rel=0.01)
    assert found.shape.quantiles_ms[1] == 3.0


def _rows(answers: float):
    def row(group, subject, load, **figures):
        return {"group": group, "subject": subject, "load": load, "round": 0, "figures": figures, "quantiles_ms": []}

    yield row("floor", "floor", "c=1", search_p50_ms=0.5)
    yield row("closed", "ours", "c=1", p50_ms=3.0, p95_ms=4.0, p99_ms=5.0, p999_ms=6.0, max_ms=7.0)
    for load in ("capacity", "50%", "70%"):
        yield row("overload", "ours", load, accepted_per_second=500.0, cpu_ms=4.0, client_cpu_ms=0.2)
    yield row("million", "ours", "c=1", second_process_share=0.1)
    for kind in ("hnsw", "ivfpq"):
        for size in (10_000, 100_000, 1_000_000):
            yield row("sizes", f"{kind} {size}", "c=8", accepted_per_second=answers, p50_ms=10.0)
            yield row("sizes", f"{kind} {size}", "once", resident_mb=400.0, index_mb=100.0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", "[figures.nothing]\nmid = 1\nunit = ''\nkind = 'assumed'\nsource = ''", "figures.nothing: there is no such"),
        ("a.toml", "[figures.front_ms]\nmid = -1\nunit = ''\nkind = 'assumed'\nsource = ''", "figures.front_ms.mid"),
        ("a.toml", "[figures.front_ms]\nmid = nan\nunit = ''\nkind = 'assumed'\nsource = ''", "figures.front_ms.mid"),
        ("a.toml", "[figures.front_ms]\nmid = 1\nlow = 2\nunit = ''\nkind = 'assumed'\nsource = ''", "not in order"),
        ("a.toml", "[shape]\nshares = [0, 0.9]\nquantiles_ms = [1, 2]\nsource = ''", "ascend from 0 to 1"),
        ("a.toml", "figures = ", "is no TOML"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", "no result of make bench"),
        ("a.json", '{"machine": {"cores": "2"}, "finished_at": "2026-12-01", "rows": []}', "it has no"),
        ("a.json", '{"machine": {}, "finished_at": 3, "rows": 5}', "no result of make bench"),
    ],
)
def test_bad_files_are_refused_by_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PlanError, match=str(path)) as caught:
        load_figures(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        load_figures(tmp_path / "none.toml")


def test_our_file_has_nothing_left_to_do() -> None:
    assert "TODO" not in OURS.read_text(encoding="utf-8")
    assert tomllib.loads(OURS.read_text(encoding="utf-8"))["figures"]


def test_every_figure_may_be_nothing_or_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.plan.make.operating_point", lambda *_: Point(0.5, 1.0, 0.0))
    for name in load_figures().by_name:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'[figures.{name}]\nmid = 0\nunit = "x"\nkind = "assumed"\nsource = "mine"\n')
        if name in MAY_BE_NOTHING:
            planned = make_plan(Demand(2e5, 384, 10, 200), Box(), load_figures(path)).layouts
            assert [each.feasible for each in planned] == [True] * 4, name
        else:
            with pytest.raises(PlanError, match=f"figures.{name}: .*must be above 0|figures.{name}: .*at least"):
                load_figures(path)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("tokens_per_core_second", 'mid = 0\nworse = "low"', "worse the less there is of it must be above 0"),
        ("copies", "mid = 0", "figures.copies: must be above 0"),
        ("hnsw_ms_100k", "mid = 1\nlow = 0", "figures.hnsw_ms_100k: must be above 0, its low end too"),
        ("replica_cores", "mid = 0.5", "figures.replica_cores: a process has a core at least"),
    ],
)
def test_figures_that_no_machine_has_are_refused(tmp_path: Path, name: str, table: str, said: str) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(f'[figures.{name}]\n{table}\nunit = "x"\nkind = "assumed"\nsource = "mine"\n')
    with pytest.raises(PlanError, match=said):
        load_figures(path)
