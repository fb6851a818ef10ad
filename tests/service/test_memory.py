"""Memory: what is left by control group and machine, what a snapshot takes, and what comes back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_snapshot

from service.memory import Freed, available_bytes, give_back, held_bytes, let_go_of_pages, mapped_bytes, resident_bytes
from snapshot.layout import Layout
from snapshot.manifest import read_manifest

MIB = 1 << 20
V1 = "memory/memory."


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    return lay(tmp_path, {"meminfo": "MemTotal:  8000 kB\nMemAvailable:    2048 kB\nCached: 5 kB"}) / "meminfo"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 2 * MIB),
        ({"memory.max": "max", "memory.current": "1000"}, 2 * MIB),
        (
            {"memory.max": str(MIB), "memory.current": "600000", "memory.stat": "anon 1\nfile 100000\nfile_mapped 7"},
            MIB - 500_000,
        ),
        (  # files of a tmpfs are in the cache, and cannot be read again
            {"memory.max": str(MIB), "memory.current": "600000", "memory.stat": "file 100000\nshmem 80000"},
            MIB - 580_000,
        ),
        ({"memory.max": "1000", "memory.current": "3000"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "5000",
                "memory/memory.usage_in_bytes": "4000",
                "memory/memory.stat": "total_cache 100",
            },
            1100,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "5000",
                "memory/memory.usage_in_bytes": "4000",
                "memory/memory.stat": "cache 7\nshmem 7\ntotal_cache 900\ntotal_shmem 800",
            },
            1100,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}, 2 * MIB),
    ],
)
def test_the_least_of_group_and_machine_is_left(tmp_path: Path, meminfo: Path, files: dict[str, str], expected: int) -> None:
    assert available_bytes(lay(tmp_path / "cgroup", files), meminfo) == expected


def test_a_limit_below_the_mount_is_seen(tmp_path: Path, meminfo: Path) -> None:
    unit = {"memory.max": str(MIB), "memory.current": "600000", "memory.stat": "file 100000"}
    mount = lay(tmp_path / "cgroup", {f"a.slice/b.service/{name}": text for name, text in unit.items()})
    membership = lay(tmp_path, {"membership": "0::/a.slice/b.service"}) / "membership"
    assert available_bytes(mount, meminfo, membership) == MIB - 500_000


def test_nothing_is_known_where_nothing_is_said(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path / "none") is None


def test_files_that_are_linked_are_mapped_once(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path / "a")
    manifest = read_manifest(layout.manifest)
    alone = mapped_bytes([(layout, manifest)])
    files = [layout.index, *layout.documents.iterdir()]
    assert alone == sum(path.stat().st_size for path in files)
    other = Layout(tmp_path / "b")
    for path in files:
        target = other.root / path.relative_to(layout.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    assert mapped_bytes([(layout, manifest), (other, manifest)]) == alone
    other.index.unlink()
    other.index.write_bytes(layout.index.read_bytes())
    assert mapped_bytes([(layout, manifest), (other, manifest)]) == alone + layout.index.stat().st_size


def test_a_file_that_is_gone_is_mapped_still_by_who_serves_it(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path)
    manifest = read_manifest(layout.manifest)
    whole = mapped_bytes([(layout, manifest)])
    layout.index.unlink()
    assert mapped_bytes([(layout, manifest)]) == whole


def test_the_tower_and_the_filter_cache_are_held(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path)
    manifest = read_manifest(layout.manifest)
    tower = layout.model.stat().st_size + layout.tokenizer.stat().st_size
    assert held_bytes(manifest, 500) == 3 * tower + 500


def test_a_teacher_that_came_along_counts(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, teacher=1.0)
    towers = [layout.model, layout.tokenizer, layout.teacher.model, layout.teacher.tokenizer]
    assert held_bytes(read_manifest(layout.manifest), 500) == 3 * sum(path.stat().st_size for path in towers) + 500


def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [np.ones(4000, dtype=np.uint8) for _ in range(30_000)]  # too small for mappings of their own
    before = resident_bytes()
    last = blocks[-1]  # on top of the heap, which could not shrink by itself then
    del blocks
    give_back()
    assert before - resident_bytes() > 50 * MIB
    assert last[0] == 1


def test_what_was_freed_is_the_difference() -> None:
    assert Freed(100, 70).bytes == 30
    assert Freed(70, 100).bytes == -30


def test_pages_that_were_let_go_of_are_read_again_when_they_are_needed(tmp_path: Path) -> None:
    path, other = tmp_path / "mapped", tmp_path / "other"
    for each in (path, other):
        each.write_bytes(b"x" * 64 * MIB)
    mapped, kept = (np.memmap(each, dtype=np.uint8, mode="r") for each in (path, other))
    assert mapped.sum() == kept.sum() == 64 * MIB * ord("x")
    before = resident_bytes()
    let_go_of_pages([path])
    assert 56 * MIB < before - resident_bytes() < 72 * MIB
    assert mapped[::4096].sum() == 64 * MIB // 4096 * ord("x")
