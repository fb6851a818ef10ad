"""The command that runs the parts: names, and what is not here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.scale import __main__ as scale
from tests.scale.contract import recalls_of


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


@pytest.mark.parametrize("ends", [lambda argv: -9, lambda argv: 1 // 0])
def test_a_part_that_is_killed_or_breaks_is_short_and_the_others_go_on(
    ends: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on: list[list[str]] = []
    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "tests.scale.contract", SimpleNamespace(main=ends))
    monkeypatch.setitem(sys.modules, "tests.scale.milvus", SimpleNamespace(main=lambda argv: went_on.append(argv) or 0))
    assert scale.main(["contract", "milvus"]) == 1
    assert went_on == [[]]


def test_recalls_are_told_apart_by_engine() -> None:
    output = (
        "hnsw, share 1 anywhere: recall@10 0.970 at effort 64\nmilvus-lite, share 0.1 elsewhere: recall@10 0.94 at effort 2\n"
    )
    assert recalls_of(output + output.replace("0.970", "0.96")) == {"hnsw": [0.97, 0.96], "milvus-lite": [0.94, 0.94]}


def test_a_part_whose_library_is_not_installed_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'ray'")

    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(scale.importlib, "import_module", missing)
    assert scale.main(["ray"]) == 0
    assert "ray: not installed here (No module named 'ray')" in capsys.readouterr().out
