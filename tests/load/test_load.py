"""The commands of this package in small: what they find must be right; how fast, a busy machine cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import make_registry

from tests.load.__main__ import CASES, run_case
from tests.load.report import Report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


@pytest.mark.parametrize("case", ["slow-clients", "disconnect"])
def test_others_are_served_and_nothing_leaks(case: str, registry: Path, tmp_path: Path) -> None:
    lines = run_case(case, registry, tmp_path, scale=0.02, calm_seconds=0.0)
    assert [str(line) for line in lines if not line.ok and not line.timing] == []
    assert len(lines) > 15


def test_a_figure_beyond_its_bound_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("case")
    report.most("few", 2, 1)
    report.least("many", 2, 2)
    assert [line.ok for line in report.lines] == [False, True]
    assert capsys.readouterr().out == "LOAD case few 2 <=1 short\nLOAD case many 2 >=2 ok\n"


def test_every_case_says_what_it_is() -> None:
    assert all(case.run.__doc__ for case in CASES.values())
