"""Stamps: what looks unchanged is not read again, what looks changed is."""

from __future__ import annotations

import contextlib
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


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_a_damaged_manifest_is_found_out(sealed: tuple[Layout, Manifest], content: bytes | None) -> None:
    layout, stamps = sealed[0], Stamps.of(sealed[0])
    whole = layout.manifest.read_bytes()
    layout.manifest.write_bytes(whole.replace(b'"toy"', b'"tox"') if content is None else content)
    with pytest.raises(HashMismatchError, match=r"manifest\.json.*roll back, or publish again"):
        stamps.check(*sealed)
    layout.manifest.unlink()
    with pytest.raises(MissingFileError, match=r"manifest\.json"):
        stamps.check(*sealed)
    layout.manifest.write_bytes(whole)
    stamps.check(*sealed)


def flip_in_place(path: Path, position: int = -1) -> None:
    """Change a byte; size, inode and time stay, as where a disk decays."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def read_round(stamps: Stamps, layout: Layout, manifest: Manifest) -> None:
    for _ in range(sum((layout.root / each).stat().st_size for each in manifest.files) // 5_000 + 1):
        stamps.read_on(layout, manifest, 5_000)


def test_what_looks_unchanged_is_read_again_in_parts(sealed: tuple[Layout, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, manifest = sealed
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *given: (pieces := pread(*given), read.append(len(pieces)))[0])
    stamps, total = Stamps.of(layout), sum((layout.root / name).stat().st_size for name in manifest.files)
    calls = 0
    while sum(read) < 2 * total:
        before = sum(read)
        stamps.read_on(layout, manifest, 10_000)
        assert sum(read) - before == 10_000
        calls += 1
    assert calls == -(-2 * total // 10_000)


def test_no_call_reads_a_file_twice(sealed: tuple[Layout, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, manifest = sealed
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *given: (pieces := pread(*given), read.append(len(pieces)))[0])
    Stamps.of(layout).read_on(layout, manifest, 1 << 40)
    assert sum(read) == sum((layout.root / name).stat().st_size for name in manifest.files)


@pytest.mark.parametrize("name", ["index/index.faiss", "query_tower/model.onnx"])
def test_a_byte_that_changed_without_a_trace_is_found_and_remembered_until_it_is_well(
    sealed: tuple[Layout, Manifest], name: str
) -> None:
    layout, manifest = sealed
    stamps = Stamps.of(layout)
    flip_in_place(layout.root / name)
    stamps.check(layout, manifest)
    with pytest.raises(HashMismatchError, match=rf"{name}: sha256 is now .* was sealed"):
        read_round(stamps, layout, manifest)
    with pytest.raises(HashMismatchError, match=name):
        stamps.read_on(layout, manifest, 1)
    flip_in_place(layout.root / name)
    with pytest.raises(HashMismatchError, match=name):
        stamps.read_on(layout, manifest, 1)
    for _ in range(2):
        with contextlib.suppress(HashMismatchError):
            stamps.read_on(layout, manifest, 1 << 40)
    stamps.read_on(layout, manifest, 1)


def test_a_file_that_cannot_be_read_any_more_is_named(sealed: tuple[Layout, Manifest]) -> None:
    stamps = Stamps.of(sealed[0])
    for name in sealed[1].files:
        (sealed[0].root / name).unlink()
    with pytest.raises(HashMismatchError, match="cannot be read any more"):
        stamps.read_on(*sealed)


def test_what_has_no_files_is_well(sealed: tuple[Layout, Manifest]) -> None:
    Stamps().read_on(*sealed)
