"""The console where the service wants API keys: it asks for one, keeps it in the tab, and shows it nowhere."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from console_page import CONTRASTS, PHONE, TOO_WIDE, Place, listening, text, visiting
from make_snapshot import make_snapshot
from serving import composed

from snapshot.registry import Registry

pytestmark = pytest.mark.slow
KEY = "a-key-of-the-tests"


def test_a_key_is_asked_for_kept_in_the_tab_and_shown_nowhere(browser: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(json.dumps({"name": "people", "sha256": sha256(KEY.encode()).hexdigest()}))
    snapshot = make_snapshot(tmp_path / "registry").root.name
    Registry(tmp_path / "registry").activate(snapshot, "for a test", who="tests")
    with composed(tmp_path / "registry", api_keys_file=keys) as parts, listening(parts) as url:
        place = Place(parts, url, [snapshot] * 3)
        with visiting(browser, place, PHONE) as page:
            page.get_by_role("searchbox").fill("apple bread")
            page.keyboard.press("Enter")
            text(page, "#error-title", "401 · API key missing, wrong or expired")
            assert page.evaluate(TOO_WIDE) == []
            assert page.evaluate(CONTRASTS) == []
            page.get_by_label("API key").fill("wrong")
            page.keyboard.press("Enter")
            text(page, "#error-detail", "none of those known here")
            page.get_by_label("API key").fill(KEY)
            page.keyboard.press("Enter")
            text(page, "#columns .count", "10 hits")
            assert page.locator("#key-form").is_hidden()
            assert page.locator("#error").is_hidden()
            assert KEY not in page.content() + page.url
            assert '-H "X-API-Key: $KEY"' in page.locator("#curl").text_content()
            page.reload()
            text(page, "#columns .count", "10 hits")
            assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
