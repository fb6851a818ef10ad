"""Cores by affinity and control group, not by machine."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import service
from service.cores import available_cores, plan_threads


@pytest.mark.parametrize(
    ("content", "affinity", "expected"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("250000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("800000 100000", 2, 2),
        ("100000 0", 8, 8),
    ],
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


def test_a_quota_below_the_mount_is_seen(tmp_path: Path) -> None:
    """That of a systemd unit is not in the files at the mount."""
    (tmp_path / "a.slice" / "b.service").mkdir(parents=True)
    (tmp_path / "a.slice" / "b.service" / "cpu.max").write_text("300000 100000")
    membership = tmp_path / "membership"
    membership.write_text("0::/a.slice/b.service\n")
    assert available_cores(tmp_path, 8, membership) == 3
    (tmp_path / "a.slice" / "cpu.max").write_text("200000 100000")
    assert available_cores(tmp_path, 8, membership) == 2


def test_no_control_group_leaves_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path, 3) == 3
    assert available_cores(tmp_path) >= 1


CORES, CHOSEN = st.integers(1, 256), st.none() | st.integers(1, 64)


@given(CORES, CHOSEN)
def test_no_more_threads_compute_than_there_are_cores(cores: int, encoder: int | None) -> None:
    plan = plan_threads(cores, None, encoder)
    assert plan.encoder == (encoder or 1)
    assert plan.workers >= 1
    assert plan.most <= max(cores, plan.encoder)  # one call may be told to take more
    assert plan.most + plan.encoder > cores  # and no core is left that could serve one more


@given(CORES, st.integers(1, 64), CHOSEN)
def test_who_sets_the_workers_gets_them(cores: int, workers: int, encoder: int | None) -> None:
    plan = plan_threads(cores, workers, encoder)
    assert (plan.cores, plan.workers, plan.encoder) == (cores, workers, encoder or 1)
    assert (plan.search, plan.tokenizer) == (plan.encoder, 1)
    assert plan.most == workers * (encoder or 1)


def test_a_plan_is_shown_whole() -> None:
    assert plan_threads(4, None, 2).as_dict() == {"cores": 4, "workers": 2, "encoder": 2, "search": 2, "tokenizer": 1}


def test_nothing_in_the_service_multiplies_on_the_threads_of_numpy() -> None:
    """They are as many as the host has cores, whatever the plan says, and a product of 24 rows of 384 wakes them."""
    for path in Path(service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.MatMult), f"{path}: @"
            assert not (isinstance(node, ast.Attribute) and node.attr in ("dot", "inner", "matmul", "tensordot", "vdot")), where
