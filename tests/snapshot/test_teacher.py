"""The optional second graph: listed and needed where the manifest says so, unheard of where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import MissingFileError
from snapshot.manifest import read_manifest
from snapshot.verify import verify


def test_a_snapshot_without_a_teacher_says_nothing_of_one(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=30)
    assert "teacher_tower" not in json.loads(layout.manifest.read_text())
    assert read_manifest(layout.manifest).teacher_tower is None


def test_a_snapshot_with_a_teacher_verifies_and_lists_its_files(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=30, teacher=1.0)
    manifest = verify(layout.root)
    assert manifest.teacher_tower is not None
    assert {"teacher_tower/model.onnx", "teacher_tower/tokenizer.json"} <= set(manifest.files)


def test_a_teacher_that_is_promised_and_not_there_is_missed(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=30, teacher=1.0, tamper=lambda staging: staging.teacher.model.unlink())
    with pytest.raises(MissingFileError, match=r"teacher_tower/model\.onnx"):
        verify(layout.root)
