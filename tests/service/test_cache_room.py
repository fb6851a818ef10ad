"""Room for what is pulled; beside a remote registry it is tried in test_mirror.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from service.cache_room import Room, _bytes_of
from snapshot.pull import _SPARE_BYTES
from snapshot.registry import Registry


def test_what_somebody_else_removes_meanwhile_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    there = [tmp_path / "kept", tmp_path / "removed"]
    monkeypatch.setattr(Path, "rglob", lambda folder, pattern: iter(there))
    assert _bytes_of([tmp_path]) == 5


def test_nothing_goes_where_that_would_not_be_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "registry")
    for seed in range(3):
        registry.publish(make_snapshot(tmp_path / "made", rows=20, seed=seed).root, "remote")
    ids = registry.ids()
    registry.activate(ids[-1], "")
    room = Room(registry, 1 << 40, "remote", lambda: None)
    monkeypatch.setattr("service.cache_room.free_bytes", lambda root: -_SPARE_BYTES)
    room.make(1 << 30)
    assert registry.ids() == ids
