"""What is verified ahead is what would have been verified later, once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot
from serving import make_registry

import service.head_start
from service.head_start import HeadStart
from snapshot.errors import HashMismatchError
from snapshot.layout import Layout
from snapshot.manifest import Manifest
from snapshot.verify import verify


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that verified."""
    threads: list[str] = []

    def counting(folder: Path, **options: Any) -> Manifest:
        threads.append(threading.current_thread().name)
        return verify(folder, **options)

    monkeypatch.setattr(service.head_start, "verify", counting)
    return threads


def wanted(folder: Path) -> Layout:
    registry = make_registry(folder)
    return registry.layout(registry.current() or "")


def test_what_is_wanted_is_verified_once_and_ahead(tmp_path: Path, counted: list[str]) -> None:
    layout, ahead = wanted(tmp_path), HeadStart()
    ahead.begin(tmp_path)
    assert ahead.verify(layout.root) == verify(layout.root)
    assert counted == ["head-start"]


def test_later_it_is_verified_anew(tmp_path: Path, counted: list[str]) -> None:
    layout, ahead = wanted(tmp_path), HeadStart()
    ahead.begin(tmp_path)
    ahead.verify(layout.root)
    layout.model.write_bytes(b"changed since")
    with pytest.raises(HashMismatchError):
        ahead.verify(layout.root)


def test_another_one_than_was_begun_is_verified_itself(tmp_path: Path, counted: list[str]) -> None:
    wanted(tmp_path)
    other, ahead = make_snapshot(tmp_path, rows=30, seed=1), HeadStart()
    ahead.begin(tmp_path)
    assert ahead.verify(other.root).id == other.root.name
    assert "MainThread" in counted


def test_a_damaged_one_is_refused_as_ever(tmp_path: Path) -> None:
    layout, ahead = wanted(tmp_path), HeadStart()
    layout.index.write_bytes(layout.index.read_bytes()[:-1])
    ahead.begin(tmp_path)
    with pytest.raises(HashMismatchError, match=r"index\.faiss"):
        ahead.verify(layout.root)


@pytest.mark.parametrize("registry", ["nowhere", "empty"])
def test_nothing_is_begun_where_nothing_is_wanted(tmp_path: Path, counted: list[str], registry: str) -> None:
    (tmp_path / "empty").mkdir()
    HeadStart().begin(tmp_path / registry)
    assert counted == []


def test_a_pointer_to_nothing_is_left_to_the_follower(tmp_path: Path) -> None:
    layout, ahead = wanted(tmp_path), HeadStart()
    (tmp_path / "CURRENT").write_text("20200101T000000Z-deadbeef\n")
    ahead.begin(tmp_path)
    assert ahead.verify(layout.root) == verify(layout.root)


def test_whatever_stops_it_is_raised_where_the_result_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, ahead = wanted(tmp_path), HeadStart()

    def fails(*_: Any, **__: Any) -> Manifest:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(service.head_start, "verify", fails)
    ahead.begin(tmp_path)
    with pytest.raises(RuntimeError, match="new thread"):
        ahead.verify(layout.root)
