"""Which control groups hold this process, and what they allow: files as the two versions have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.control_groups import cpu_quota, groups_of


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


V2 = {"a.slice/b.service/cpu.max": "max 100000"}
V1 = {"cpu/a/cpu.cfs_quota_us": "300000", "memory/a/memory.limit_in_bytes": "9000"}


@pytest.mark.parametrize(
    ("membership", "files", "controller", "expected"),
    [
        ("0::/a.slice/b.service\n", V2, "cpu", ["a.slice/b.service", "a.slice", "."]),
        ("3:cpu,cpuacct:/a\n4:memory:/\n", V1, "cpu", [".", "cpu/a", "cpu"]),
        ("3:cpu,cpuacct:/a\n4:memory:/\n", V1, "memory", [".", "memory"]),
        ("0::/docker/elsewhere\n", V2, "cpu", ["."]),  # a container whose mount is its own group
        ("0::/../a.slice\n", V2, "cpu", ["."]),
        ("0::/a.slice\n", {**V2, "unified/a.slice/x": ""}, "cpu", ["unified/a.slice", "unified"]),
        ("", V2, "cpu", ["."]),
        ("nonsense\n", V2, "cpu", ["."]),
    ],
)
def test_the_processes_own_group_comes_first(
    membership: str, files: dict[str, str], controller: str, expected: list[str], tmp_path: Path
) -> None:
    mount = lay(tmp_path / "fs", files)
    told = lay(tmp_path, {"membership": membership}) / "membership"
    assert groups_of(controller, mount, told) == [mount / name for name in expected]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "250000 100000", "cpu.max": "max 100000"}, 2.5),
        ({"a/b/cpu.max": "max 100000", "cpu.max": "400000 100000"}, 4.0),
        ({"a/b/cpu.max": "100000 0"}, None),
        ({"a/b/cpu.max": "100000"}, None),
        ({"a/b/cpu.max": ""}, None),
        ({"cpu/a/b/cpu.cfs_quota_us": "300000", "cpu/a/b/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1"}, 3.0),
        ({"cpu/a/b/cpu.cfs_quota_us": "300000", "cpu/a/b/cpu.cfs_period_us": "0"}, None),
    ],
)
def test_the_least_quota_of_all_groups_holds(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    lay(tmp_path, {"membership": "3:cpu,cpuacct:/a/b\n0::/a/b\n"})
    assert cpu_quota(lay(tmp_path / "fs", files), tmp_path / "membership") == cores
