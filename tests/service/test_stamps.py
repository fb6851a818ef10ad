"""Stamps: what looks unchanged is not read again, what looks changed is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

import service.stamps
from service.stamps import Stamps
from snapshot.errors import HashMismatchError, MissingFileError
from snapshot.layout import Layout
from snapshot.manifest import Manifest, read_manifest


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Layout, Manifest]:
    layout = make_snapshot(tmp_path)
    return layout, read_manifest(layout.manifest)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    sha256 = service.stamps.sha256
    monkeypatch.setattr(service.stamps, "sha256", lambda path: (names.append(path.name), sha256(path))[1])
    return names


def test_unchanged_files_are_not_read(sealed: tuple[Layout, Manifest], hashed: list[str]) -> None:
    Stamps.of(sealed[0]).check(*sealed)
    assert hashed == []


def test_a_touched_file_is_read_once_and_is_well(sealed: tuple[Layout, Manifest], hashed: list[str]) -> None:
    stamps = Stamps.of(sealed[0])
    os.utime(sealed[0].tokenizer, (5, 5))
    stamps.check(*sealed)
    stamps.check(*sealed)
    assert hashed == ["tokenizer.json"]


@pytest.mark.parametrize("keep_time", [False, True])
def test_another_file_of_the_same_size_is_found_out(sealed: tuple[Layout, Manifest], keep_time: bool) -> None:
    layout, stamps = sealed[0], Stamps.of(sealed[0])
    other, before = layout.root.parent / "other", layout.index.stat()
    shutil.copy(layout.index, other)
    content = bytearray(other.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    if keep_time:
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(layout.index)
    with pytest.raises(HashMismatchError, match=r"index\.faiss: sha256 is now .* was sealed"):
        stamps.check(*sealed)


def test_a_file_that_is_gone_is_named(sealed: tuple[Layout, Manifest]) -> None:
    stamps = Stamps.of(sealed[0])
    sealed[0].model.unlink()
    with pytest.raises(MissingFileError, match=r"model\.onnx"):
        stamps.check(*sealed)
