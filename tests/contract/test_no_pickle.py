"""Nothing that is read from a snapshot can run code: no pickle, and numpy is told so at every load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("service", "snapshot") for path in (ROOT / package).rglob("*.py"))
FORBIDDEN = re.compile(r"\b(pickle|cloudpickle|dill|joblib|marshal|shelve|allow_pickle=True|yaml\.load|eval\(|exec\()")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_that_reads_snapshots_can_run_what_it_reads(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert FORBIDDEN.findall(source) == []
    loads = re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", source)
    assert all("allow_pickle=False" in load for load in loads)
