"""A browser, and a service for its console to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console_page import SWITCHES, Place, chromium, listening
from make_snapshot import make_snapshot
from serving import composed, tokens_file

from snapshot.registry import Registry


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    registry = tmp_path / "registry"
    ids = [make_snapshot(registry, rows=200 + 10 * seed, kind="hnsw", seed=seed).root.name for seed in (1, 2, 3)]
    model = registry / ids[2] / "query_tower" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    Registry(registry).activate(ids[0], "the first one", who="tests")
    settings = {"admin_tokens_file": tokens_file(tmp_path), "follow_interval_seconds": 0.05}
    with composed(registry, **settings) as parts, listening(parts) as url:
        parts.follower.start()
        yield Place(parts, url, ids)
