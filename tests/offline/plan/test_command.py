"""``python -m offline plan`` as people type it."""

import json
import sys

import pytest
from typer.testing import CliRunner

from offline.__main__ import app, main
from offline.errors import PlanError
from offline.plan.sheet import Step, compute

ASKED = ("--documents", "2e6", "--dim", "384", "--qps", "100", "--p99-ms", "100")


def run(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_table_formulas_and_sources_are_printed() -> None:
    printed = run(*ASKED).output
    for words in ("FAISS HNSW, one box", "Milvus cluster", "memory of a box, GB", "a month, $", "fits", "advised"):
        assert words in printed, words
    assert "4 * dim + 8 * m + 4 * m / (m - 1) + 12   [dim 384, m 32]" in printed
    assert "docs/performance.json" in printed


def test_brief_is_the_table_alone() -> None:
    printed = run(*ASKED, "--brief").output
    assert "FAISS HNSW" in printed
    assert "How it is computed" not in printed


def test_json_has_each_step_at_each_end() -> None:
    found = json.loads(run(*ASKED, "--json").output)
    steps = next(each for each in found["layouts"] if each["name"] == "hnsw")["steps"]
    assert steps["box_gb"]["good"] <= steps["box_gb"]["likely"] <= steps["box_gb"]["bad"]
    assert steps["replicas"]["formula"] == "ceil(qps / replica_qps)"
    assert found["advised"] in {each["name"] for each in found["layouts"]}
    assert found["figures"]["front_ms"]["kind"] == "measured"


def test_formulas_can_be_computed_from_what_json_gives() -> None:
    found = json.loads(run(*ASKED, "--json").output)
    steps = next(each for each in found["layouts"] if each["name"] == "hnsw")["steps"]
    for name in ("vector_bytes", "index_gb", "per_box", "disk_gb", "box_gb"):
        known = {**found["given"], **{each: step["likely"] for each, step in steps.items()}}
        assert compute([Step(name, "", steps[name]["formula"], "")], known, {})[name] == pytest.approx(steps[name]["likely"])


def test_prices_are_taken() -> None:
    def month(*prices: str) -> float:
        found = json.loads(run(*ASKED, "--json", *prices).output)
        return found["layouts"][0]["steps"]["month_cost"]["likely"]

    free = ("--gb-hour", "0", "--disk-gb-month", "0")
    assert month("--core-hour", "0", *free) == 0
    assert month("--core-hour", "0.2", *free) == pytest.approx(2 * month("--core-hour", "0.1", *free))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--documents", "-1"), "--documents -1: must lie between"),
        (("--documents", "0"), "--documents 0: must lie between"),
        (("--documents", "1e30"), "--documents 1e+30: must lie between"),
        (("--documents", "1.5"), "--documents 1.5: must be a whole number"),
        (("--documents", "many"), "--documents 'many': is no number"),
        (("--dim", "0"), "--dim 0: must lie between"),
        (("--dim", "nan"), "--dim nan: is no finite number"),
        (("--qps", "inf"), "--qps inf: is no finite number"),
        (("--qps", "-5"), "--qps -5: must lie between"),
        (("--p99-ms", "0"), "--p99-ms 0: must lie between"),
        (("--hnsw-m", "1"), "--hnsw-m 1: must lie between"),
        (("--box-memory-gb", "-2"), "--box-memory-gb -2: must lie between"),
        (("--box-cores", "2.5"), "--box-cores 2.5: must be a whole number"),
        (("--core-hour", "-1"), "--core-hour -1: a price is not below 0"),
        (("--core-hour", "x"), "--core-hour 'x': is no number"),
        (("--seed", "-1"), "--seed -1: must be a whole number"),
        (("--figures", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
    ],
)
def test_what_cannot_be_is_one_clear_line(changed: tuple[str, str], said: str) -> None:
    found = run(*ASKED, *changed)
    assert isinstance(found.exception, PlanError)
    assert said in str(found.exception)
    assert "\n" not in str(found.exception)


def test_the_program_ends_with_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["offline", "plan", *ASKED, "--dim", "0"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
