"""``python -m snapshot list``, ``history`` and the others, asked of what is no folder, or printed where little can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.__main__ import main
from snapshot.registry import Registry

REPOSITORY = Path(__file__).parents[2]
URL = "s3://bucket/prefix"
COMMANDS = (
    "list",
    "history",
    "show ID",
    "verify ID",
    "diff ID ID",
    "activate ID",
    "rollback",
    "pin ID",
    "unpin ID",
    "gc --keep 1",
    "sign ID --key KEY",
    "push ID ./there",
)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.publish(make_snapshot(tmp_path / "made", rows=20).root)
    return registry


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["snapshot", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command makes by mistake, it makes here."""
    monkeypatch.delenv("SCALINGNOTE_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [*COMMANDS, f"pull {URL}"])
def test_the_url_of_an_object_store_is_refused_where_a_folder_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, *command.split(), "--registry", URL, "--json") == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["code"] == "remote_address_invalid"
    assert f"python -m snapshot pull {URL} --registry DIR" in printed.err
    monkeypatch.setenv("SCALINGNOTE_REGISTRY", URL)
    assert run(monkeypatch, *command.split()) == 2
    assert f"error: {URL}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_missing_is_no_empty_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, *command.split(), "--registry", str(tmp_path / "nothing")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {tmp_path / 'nothing'}: no s")  # no such folder, or no snapshot in it
    assert "cannot be written" not in said
    assert not (tmp_path / "nothing").exists()


def test_a_folder_may_be_named_by_a_url(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "list", "--registry", registry.root.as_uri(), "--json") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["snapshots"]] == registry.ids()


def test_showing_one_says_why_it_cannot_be_told_what_is_desired(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (registry.root / "CURRENT").write_bytes(b"\xff")
    asked = ("show", registry.ids()[0], "--registry", str(registry.root))
    assert run(monkeypatch, *asked, "--json") == 0
    assert "CURRENT: cannot be read" in json.loads(capsys.readouterr().out)["desired_error"]
    assert run(monkeypatch, *asked) == 0
    assert "CURRENT: cannot be read" in capsys.readouterr().out


def test_what_an_encoding_lacks_is_escaped(registry: Registry) -> None:
    registry.activate(registry.ids()[0], "schöner 检索", who="Zoë")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-m", "snapshot", "history", "--registry", str(registry.root)]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"sch\xf6ner \u68c0\u7d22" in done.stdout
