"""The command that runs the parts: names, and what is not here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.scale import __main__ as scale


def test_an_unknown_part_is_named_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["milvos"]) == 2
    assert "no part 'milvos'; there are: contract, milvus" in capsys.readouterr().err


def test_a_part_that_is_not_there_is_a_line_and_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scale.PARTS, "nowhere", "nothing")
    assert scale.main(["nowhere"]) == 0
    assert "nowhere: not in this checkout (tests/scale/nowhere.py)" in capsys.readouterr().out


def test_the_worst_part_decides_and_each_gets_what_follows_the_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[str]] = []

    def main(argv: list[str]) -> int:
        heard.append(argv)
        return len(heard) - 1

    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "tests.scale.contract", SimpleNamespace(main=main))
    monkeypatch.setitem(sys.modules, "tests.scale.milvus", SimpleNamespace(main=main))
    assert scale.main(["contract", "milvus", "--", "--lite"]) == 1
    assert heard == [["--lite"], ["--lite"]]


def test_a_part_whose_library_is_not_installed_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'ray'")

    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(scale.importlib, "import_module", missing)
    assert scale.main(["ray"]) == 0
    assert "ray: not installed here (No module named 'ray')" in capsys.readouterr().out
