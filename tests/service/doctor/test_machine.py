"""What a machine gives: each figure by a table, and files as control groups have them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from service.cgroup import Usage
from service.cores import available_cores, plan_threads, quota_of
from service.doctor.cgroups import Limits, limits_below
from service.doctor.findings import Verdict
from service.doctor.machine import check_cores, check_files, check_memory, check_threads, check_throttling

GB = 10**9


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("quota", "below", "verdict", "word"),
    [
        (None, None, "ok", "quota none"),
        (2.5, None, "ok", "quota 2.5"),
        (0.5, None, "wrong", "quota 0.5"),
        (None, 2.0, "wrong", "further down 2"),
        (4.0, 4.0, "ok", "quota 4"),
    ],
)
def test_cores(quota: float | None, below: float | None, verdict: Verdict, word: str) -> None:
    found = check_cores(8, 4, quota, below)
    assert (found.verdict, word in found.seen) == (verdict, True)
    assert bool(found.advice) == (verdict != "ok")


def test_a_quota_of_the_processes_own_group_says_how_many_threads_to_ask_for() -> None:
    assert "SCALINGNOTE_THREADS=2" in check_cores(8, 8, None, 2.5).advice


def test_a_quota_at_the_mount_is_read_as_the_service_reads_it(tmp_path: Path) -> None:
    write(tmp_path, cpu_dot_max="50000 100000\n")
    assert check_cores(8, 8, quota_of(tmp_path, tmp_path / "cpu"), None).verdict == "wrong"
    assert available_cores(tmp_path, 8) == 1


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/a.slice/b.service\n", {"a_dot_slice__cpu_dot_max": "300000 100000", "a_dot_slice__memory_dot_max": "9000"}),
        (
            "3:cpu,cpuacct:/a\n4:memory:/a\n",
            {
                "cpu__a__cpu_dot_cfs_quota_us": "300000",
                "cpu__a__cpu_dot_cfs_period_us": "100000",
                "memory__a__memory_dot_limit_in_bytes": "9000",
            },
        ),
    ],
    ids=["version 2, of the slice above", "version 1"],
)
def test_limits_below_the_mount_are_found(membership: str, files: dict[str, str], tmp_path: Path) -> None:
    mount, told = write(tmp_path / "fs", **files), tmp_path / "membership"
    told.write_text(membership)
    assert limits_below(mount, told) == Limits(3.0, 9000)


@pytest.mark.parametrize("membership", ["0::/\n", "4:memory:/\n3:cpu:/\n", "0::/../elsewhere\n", "", "nonsense\n"])
def test_limits_at_the_mount_itself_are_the_services_own_business(membership: str, tmp_path: Path) -> None:
    write(tmp_path, cpu_dot_max="50000 100000", memory_dot_max="9000", cpu__cpu_dot_cfs_quota_us="1")
    told = tmp_path / "membership"
    told.write_text(membership)
    assert limits_below(tmp_path, told) == Limits()


def test_no_limit_of_version_1_is_none(tmp_path: Path) -> None:
    write(tmp_path, memory__a__memory_dot_limit_in_bytes="9223372036854771712", told="4:memory:/a\n")
    assert limits_below(tmp_path, tmp_path / "told") == Limits()


@pytest.mark.parametrize(
    ("workers", "encoder", "verdict"), [(None, None, "ok"), (8, None, "wrong"), (2, 3, "wrong"), (4, 1, "ok")]
)
def test_threads(workers: int | None, encoder: int | None, verdict: Verdict) -> None:
    assert check_threads(plan_threads(4, workers, encoder)).verdict == verdict


@pytest.mark.parametrize(
    ("usage", "verdict"),
    [
        (Usage(), "ok"),
        (Usage(periods=0, throttled_periods=0), "ok"),
        (Usage(periods=1000, throttled_periods=49, throttled_seconds=1.0), "ok"),
        (Usage(periods=1000, throttled_periods=50, throttled_seconds=1.0), "warn"),
    ],
)
def test_throttling(usage: Usage, verdict: Verdict) -> None:
    assert check_throttling(usage).verdict == verdict


@pytest.mark.parametrize(
    ("available", "limit", "below", "verdict"),
    [
        (None, None, Limits(), "unknown"),
        (2 * GB, 4 * GB, Limits(), "ok"),
        (GB // 4, 4 * GB, Limits(), "wrong"),
        (8 * GB, None, Limits(memory_bytes=2 * GB), "warn"),
        (GB, None, Limits(memory_bytes=2 * GB), "ok"),
    ],
)
def test_memory(available: int | None, limit: float | None, below: Limits, verdict: Verdict) -> None:
    assert check_memory(available, limit, below).verdict == verdict


@pytest.mark.parametrize(
    ("hard", "asked", "verdict"),
    [
        (resource.RLIM_INFINITY, None, "ok"),
        (65_536, None, "ok"),
        (1024, None, "warn"),
        (256, None, "wrong"),
        (1024, 768, "ok"),
        (1024, 769, "wrong"),
    ],
)
def test_files(hard: int, asked: int | None, verdict: Verdict) -> None:
    assert check_files(hard, asked).verdict == verdict
