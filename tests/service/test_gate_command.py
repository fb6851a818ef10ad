"""``python -m service gate``: a report, or an error by name; and never what a terminal would obey."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from service import gate_command
from service.apart import Case, word_json
from service.examine import judge
from service.gate import Check, GateOptions, GateReport
from service.generation import GenerationOptions
from service.settings import Settings, load_settings
from snapshot.errors import RefusedApartError
from snapshot.keys import generate
from snapshot.registry import Registry


def fail(*_: object) -> None:
    """As a library that finds in a file what it does not expect."""
    raise KeyError("what a file had twice")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    make_snapshot(tmp_path / "registry", rows=30)
    return tmp_path / "registry"


def settings(registry: Path) -> Settings:
    return load_settings({"registry": str(registry)})


def only(registry: Path) -> str:
    return next(path.name for path in registry.iterdir() if not path.name.startswith("."))


def test_what_nobody_expected_is_a_refusal(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.generation.open_documents", fail)
    report = gate_command.inspect(settings(registry), only(registry), None)
    assert not report.passed
    assert (report.code, report.reason) == ("internal", "KeyError: 'what a file had twice'")


def test_what_nobody_expected_is_a_refusal_apart_too(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.generation.open_documents", fail)
    root = registry / only(registry)
    case = Case(root, False, "", False, GateOptions(), GenerationOptions(batching=False), [], False, [], None, None, [])
    answers = BytesIO()
    judge(case, answers)
    verdict = word_json().validate_json(answers.getvalue().splitlines()[-1])
    assert (verdict.code, verdict.reason) == ("internal", "KeyError: 'what a file had twice'")


def test_another_one_that_cannot_be_loaded_is_named(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.generation.open_documents", fail)
    with pytest.raises(RefusedApartError, match=f"{only(registry)}: cannot be loaded to be compared with"):
        gate_command.inspect(settings(registry), only(registry), only(registry))


@pytest.mark.parametrize("arguments", [("nothere", None), ("", "nothere")])
def test_without_a_report_there_is_an_error(
    registry: Path, arguments: tuple[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot, against = arguments
    assert gate_command.run(str(registry), snapshot or only(registry), against, as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "snapshot_unknown"
    assert gate_command.run(str(registry), snapshot or only(registry), against, as_json=False) == 2
    assert "error: " in capsys.readouterr().err


def test_keys_that_are_named_are_the_ones_trusted(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path / "ours", tmp_path / "ours.pub")
    generate(tmp_path / "stranger", tmp_path / "stranger.pub")

    def said(name: str) -> tuple[str | None, dict[str, object]]:
        gate_command.run(str(registry), only(registry), None, as_json=True, keys=[tmp_path / name])
        report = json.loads(capsys.readouterr().out)
        return report["code"], {check["name"]: check["value"] for check in report["checks"]}

    assert said("ours.pub")[0] == "signature_missing"
    Registry(registry).sign(only(registry), tmp_path / "ours")
    assert said("stranger.pub")[0] == "signature_wrong"
    assert said("ours.pub")[1]["signature"] == "of a trusted key"


def test_nothing_is_cut_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("space", "a" * 64, "b" * 64, passed=False, forcible=False, detail="word " * 60 + "c" * 300)
    report = GateReport("id" * 60, datetime.now(UTC), (check,), False, False, code="wrong_space", reason="because " * 30)
    gate_command.show(report, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    [row] = [line for line in lines if "space" in line]
    assert all(text in row for text in ("a" * 64, "b" * 64, "word " * 60 + "c" * 300))
    assert lines[-1].startswith("id" * 60 + ": because because")


@pytest.mark.parametrize("where", [lambda text: (text, None), lambda text: ("", text)])
def test_what_a_snapshot_says_is_neither_markup_nor_obeyed(
    where: Callable[[str], tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    detail, reason = where("[/x] \x1b[31m [bold]red")
    check = Check("required_ids", 1, 0, passed=False, forcible=True, detail=detail)
    report = GateReport("id", datetime.now(UTC), (check,), False, False, code=reason and "gate_required_ids", reason=reason)
    assert gate_command.show(report, as_json=False) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[/x]" in shown
    assert "[bold]red" in shown
