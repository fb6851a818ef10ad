"""``python -m offline``: what its commands share."""

from __future__ import annotations

import sys

import pytest

from offline.__main__ import main


@pytest.mark.parametrize("command", ["run", "encode", "pack"])
def test_the_url_of_an_object_store_is_refused_before_any_work(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["offline", command, "demo", "--registry", "s3://bucket/prefix"])
    monkeypatch.setattr("offline.__main__.STAGES", {})
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: s3://bucket/prefix: a folder of this machine is needed" in capsys.readouterr().err


def test_a_candidate_of_search_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = 'search.candidates=[{student = "narrow"}]'
    monkeypatch.setattr(sys, "argv", ["offline", "search", "offline/recipes/demo.toml", "--set", candidates])
    monkeypatch.setattr("offline.__main__.STAGES", {})
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "search.candidates.0: a narrow student needs width or ffn" in capsys.readouterr().err
