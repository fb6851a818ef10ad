"""Cores by affinity and control group, not by machine."""

from pathlib import Path

import pytest

from service.cores import available_cores


@pytest.mark.parametrize(
    ("content", "affinity", "expected"),
    [("max 100000", 8, 8), ("200000 100000", 8, 2), ("250000 100000", 8, 2), ("50000 100000", 8, 1), ("800000 100000", 2, 2)],
)
def test_version_2_quota(tmp_path: Path, content: str, affinity: int, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert available_cores(tmp_path, affinity) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("10000", 1)])
def test_version_1_quota(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(tmp_path, 8) == expected


def test_no_control_group_leaves_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path, 3) == 3
    assert available_cores(tmp_path) >= 1
