"""docs/security.md names tests, settings with their defaults, and metrics that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from service.settings import described_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "`tests/" in line]
DEFAULTS = {setting.variable: setting.default for setting in described_settings()}


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_claim_names_a_test() -> None:
    holds = PAGE.split("## What holds", 1)[1].split("## What is left to you", 1)[0]
    claims = [line for line in holds.splitlines() if line.startswith("| ") and not line.startswith("| claim |")]
    assert len(claims) > 30
    assert [claim for claim in claims if claim not in ROWS] == []


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE))))
def test_a_named_test_exists(named: str) -> None:
    file, _, test = named.partition("::")
    assert test in functions_of(file)


def test_nothing_else_looks_like_a_test() -> None:
    found = set(re.findall(r"`(tests/[^`]+)`", PAGE))
    assert {name for name in found if not re.fullmatch(r"tests/[\w/]+\.py(::test_\w+)?", name)} == set()
    assert {name for name in found if "::" not in name} == {"tests/contract/test_security_page.py"}


def test_every_named_setting_exists_and_has_the_default_that_is_named() -> None:
    named = set(re.findall(r"SCALINGNOTE_[A-Z_]+", PAGE))
    assert named <= set(DEFAULTS)
    with_default = re.findall(r"`(SCALINGNOTE_[A-Z_]+)` \(([^):]+)(?::[^)]*)?\)", PAGE)
    assert len(with_default) > 15
    assert {name: default for name, default in with_default if DEFAULTS[name] != default} == {}


def test_every_named_metric_exists() -> None:
    metrics = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(scalingnote_\w+)`", PAGE))
    assert named
    assert [name for name in named if f"`{name}`" not in metrics] == []
