"""Vectors in many files, read as one."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

import offline.encoded
from offline.encoded import Vectors, load_vectors
from offline.errors import StageError


def write(folder, numbers):
    folder.mkdir()
    for number in numbers:
        np.save(folder / f"{number:05}.npy", np.full((2, 3), number, np.float32))


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    numbers = [0, 9_999, 10_000, 10_001, 99_999, 100_000, 100_001]
    write(tmp_path / "shards", numbers)
    assert load_vectors(tmp_path)[::2, 0].tolist() == numbers
    vectors = Vectors(tmp_path / "shards")
    assert vectors.take(np.array([13, 0, 10]))[:, 0].tolist() == [100_001, 0, 100_000]
    assert vectors.read(np.array([4, 9]))[:, 0].tolist() == [10_000, 99_999]


def test_there_may_be_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(offline.encoded, "_MAPPED", 10)
    write(tmp_path / "shards", range(300))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 100, hard))
    try:
        assert load_vectors(tmp_path).shape == (600, 3)
        rows = np.random.default_rng(0).permutation(600)
        assert Vectors(tmp_path / "shards").take(rows)[:, 0].tolist() == (rows // 2).tolist()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_any_it_says_which_stage_makes_them(tmp_path):
    with pytest.raises(StageError, match="run the stage encode first"):
        Vectors(tmp_path)
