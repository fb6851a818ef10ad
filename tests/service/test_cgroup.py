"""Files as the two versions of control groups have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.cgroup import CgroupCollector, Usage, read_usage

STAT = "usage_usec 900\nnr_periods 120\nnr_throttled 30\n"


def version_2(folder: Path, limit: str = "1073741824") -> Path:
    files = {"cgroup.controllers": "cpu memory", "memory.current": "536870912\n", "memory.max": f"{limit}\n"}
    for name, content in {**files, "cpu.stat": f"{STAT}throttled_usec 2500000\n"}.items():
        (folder / name).write_text(content)
    return folder


def version_1(folder: Path, limit: str = "1073741824") -> Path:
    for name, content in {
        "memory/memory.usage_in_bytes": "536870912\n",
        "memory/memory.limit_in_bytes": f"{limit}\n",
        "cpu/cpu.stat": f"{STAT}throttled_time 2500000000\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("make", [version_2, version_1])
def test_both_versions_say_the_same(make: object, tmp_path: Path) -> None:
    assert read_usage(make(tmp_path)) == Usage(536870912, 1073741824, 120, 30, 2.5)  # type: ignore[operator]


@pytest.mark.parametrize(("make", "none"), [(version_2, "max"), (version_1, "9223372036854771712")])
def test_no_limit_is_no_figure(make: object, none: str, tmp_path: Path) -> None:
    assert read_usage(make(tmp_path, none)).memory_limit_bytes is None  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "groups", "told"),
    [
        (version_2, ("a", "a"), "0::/a\n"),
        (version_1, ("memory/a", "cpu/a"), "4:memory:/a\n3:cpu,cpuacct:/a\n"),
    ],
)
def test_the_group_with_the_least_limit_is_told_of(make: object, groups: tuple[str, str], told: str, tmp_path: Path) -> None:
    make(tmp_path, "2147483648")  # type: ignore[operator]
    for group, files in zip(groups, ({"memory.max": "7", "memory.current": "5"}, {"cpu.max": "100000 100000"}), strict=True):
        (tmp_path / group).mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / group / name).write_text(content)
    (tmp_path / groups[1] / "cpu.stat").write_text("nr_periods 9\nnr_throttled 3\nthrottled_usec 1000000\n")
    (tmp_path / "membership").write_text(told)
    assert read_usage(tmp_path, tmp_path / "membership") == Usage(5, 7, 9, 3, 1.0)


def test_where_there_is_none_there_is_no_series_and_no_error(tmp_path: Path) -> None:
    assert read_usage(tmp_path) == Usage()
    families = list(CgroupCollector(tmp_path).collect())
    assert len(families) == 5
    assert [sample for family in families for sample in family.samples] == []


def test_they_are_read_anew_at_each_scrape(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(CgroupCollector(version_2(tmp_path)))
    assert registry.get_sample_value("scalingnote_cgroup_memory_bytes") == 536870912
    assert registry.get_sample_value("scalingnote_cgroup_cpu_throttled_seconds_total") == 2.5
    (tmp_path / "memory.current").write_text("1\n")
    assert registry.get_sample_value("scalingnote_cgroup_memory_bytes") == 1
