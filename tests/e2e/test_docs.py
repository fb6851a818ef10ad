"""/docs in a real browser: it shows the routes, asks nobody else, and its policy has nothing to refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from console_page import WAIT_MS, listening
from serving import composed, make_registry

pytestmark = pytest.mark.slow


def test_the_routes_are_shown_and_can_be_tried(browser: Any, tmp_path: Path) -> None:
    make_registry(tmp_path)
    with composed(tmp_path) as parts, listening(parts) as url:
        page = browser.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/docs")
        page.locator(".opblock-summary-path", has_text="/livez").click(timeout=WAIT_MS)
        page.get_by_role("button", name="Try it out").click(timeout=WAIT_MS)
        page.get_by_role("button", name="Execute").click(timeout=WAIT_MS)
        page.locator(".live-responses-table .response-col_status", has_text="200").wait_for(timeout=WAIT_MS)
        page.close()
    assert complaints == []
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
