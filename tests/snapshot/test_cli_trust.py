"""``python -m snapshot verify``: what its options mean together."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from make_snapshot import make_snapshot

from snapshot import cli_trust
from snapshot.__main__ import main
from snapshot.keys import generate
from snapshot.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.publish(make_snapshot(tmp_path / "made", rows=20).root)
    return registry


def verify(registry: Registry, monkeypatch: pytest.MonkeyPatch, *options: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["snapshot", "verify", registry.ids()[0], "--registry", str(registry.root), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_gate_trusts_the_same_keys(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tmp_path / name for name in ("a", "b, c")]
    for key in keys:
        generate(key, tmp_path / f"{key.name}.pub")
    registry.sign(registry.ids()[0], keys[0])
    asked: list[list[str]] = []

    def fake(command: list[str], **_: object) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cli_trust.subprocess, "run", fake)
    options = [part for key in keys for part in ("--key", f"{key}.pub")]
    assert verify(registry, monkeypatch, "--deep", *options) == 0
    assert asked[0][-4:] == options


def test_what_is_to_be_compared_with_needs_the_gate(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(registry, monkeypatch, "--against", "other") == 2
    printed = capsys.readouterr()
    assert "--against" in printed.err
    assert "--deep" in printed.err
    assert "intact" not in printed.out
    assert verify(registry, monkeypatch, "--against", "other", "--json") == 2
    assert '"usage"' in capsys.readouterr().out
