"""The console in a real browser, over a real service: what an operator sees and does, by keyboard and on a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from console_page import (
    CONTRASTS,
    DESKTOP,
    PHONE,
    TOO_WIDE,
    Place,
    badges,
    cells,
    declare,
    listening,
    row,
    signed_in,
    text,
    visiting,
)
from crew import Gate
from make_snapshot import make_snapshot
from serving import OPERATOR, TOKEN, composed

pytestmark = pytest.mark.slow


def test_a_search_is_answered(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.get_by_role("searchbox").fill("apple bread")
        page.keyboard.press("Enter")
        text(page, "#columns .count", "10 hits")
        assert page.locator("#columns .snapshot-id").inner_text() == place.first
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.className") == "hit"


def test_a_wrong_token_is_told_and_not_kept(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.goto(f"{place.url}/#snapshots")
        page.get_by_label("Operator's token").fill("wrong")
        page.keyboard.press("Enter")
        text(page, "#token-error", "none of those configured")
        assert page.evaluate("sessionStorage.length") == 0
        assert page.locator("#operator").is_hidden()


def test_the_token_stays_in_the_tab(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        page.reload()
        row(page, place.first).wait_for()
        assert page.evaluate("[localStorage.length, document.cookie, Object.keys(sessionStorage).length]") == [0, "", 1]
        page.get_by_role("button", name="Forget the token").click()
        page.get_by_label("Operator's token").wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_an_operator_activates_watches_and_rolls_back(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        assert badges(page, place.first)[:2] == ["desired", "serving"]
        assert "210" in row(page, place.first).inner_text()
        gate = place.held.gates[place.second] = Gate()
        row(page, place.second).get_by_role("button", name="Activate").click()
        declare(page, "a better student")
        gate.until_reached()
        text(page, "#steps .running", "proving")
        text(page, "#swap-ids", f"desired {place.second} · serving {place.first}")
        row(page, place.second).locator(".badge", has_text="desired").wait_for()
        assert row(page, place.first).get_by_role("button", name="Activate").is_enabled()
        assert page.get_by_role("button", name="Roll back").is_enabled()
        gate.open.set()
        text(page, "#swap-ids", f"serving {place.second}")
        text(page, "#steps-about", re.compile(f"Last swap: {place.second}, "))
        row(page, place.second).locator(".badge", has_text="serving").wait_for()
        page.get_by_role("button", name="Roll back").click()
        declare(page, "worse answers")
        text(page, "#swap-ids", f"serving {place.first}")
    assert [(event.action, event.snapshot, event.why, event.who) for event in place.history][-2:] == [
        ("activate", place.second, "a better student", OPERATOR),
        ("rollback", place.first, "worse answers", OPERATOR),
    ]


def test_a_refused_snapshot_shows_its_reason_and_the_old_one_goes_on(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        row(page, place.damaged).get_by_role("button", name="Activate").click()
        declare(page, "to see it refused")
        text(page, "#failure-title", f"{place.damaged} was refused: hash_mismatch")
        text(page, "#failure-reason", "query_tower/model.onnx")
        text(page, "#failure-more", re.compile(r"attempt \d+ at .* next attempt in"))
        text(page, "#swap-ids", f"desired {place.damaged} · serving {place.first}")
        page.get_by_role("button", name="Roll back").click()
        declare(page, "it is damaged")
        text(page, "#swap-ids", f"serving {place.first}")
        page.locator("#failure").wait_for(state="hidden")


def test_nothing_is_declared_without_a_reason_and_escape_goes_back(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        page.get_by_role("button", name="Roll back").click()
        page.keyboard.press("Enter")
        assert page.locator("#change").is_visible()
        page.keyboard.press("Escape")
        page.locator("#change").wait_for(state="hidden")
        page.get_by_role("button", name="Roll back").click()
        declare(page, "there is nothing before")
        text(page, "#change-error", "nothing was active before")
    assert len(place.history) == 1


def test_a_report_shows_each_check_and_force_goes_past_those_that_can_be_forced(
    browser: Any, place: Place, tmp_path: Path
) -> None:
    small = make_snapshot(tmp_path / "registry", rows=20, kind="hnsw", seed=4).root.name
    with visiting(browser, place) as page:
        signed_in(page)
        row(page, small).get_by_role("button", name="Activate").click()
        declare(page, "a clearance")
        text(page, "#failure-title", f"{small} was refused: gate_documents")
        row(page, small).locator(".badge", has_text="refused: documents").wait_for()
        row(page, small).get_by_role("button", name="Details").click()
        assert cells(page, small, "documents") == ["0.0952", "0.8 to 2", "failed, can be forced"]
        row(page, small).get_by_role("button", name="Activate").click()
        page.get_by_label("force").check()
        page.get_by_label("Why").focus()
        declare(page, "a clearance: ninety percent are meant to go")
        text(page, "#swap-ids", f"serving {small}")
        row(page, small).locator("h3 .badge", has_text="forced past documents").wait_for()
    assert [(event.action, event.why, event.forced) for event in place.history][-1:] == [
        ("activate", "a clearance: ninety percent are meant to go", True)
    ]


def test_two_snapshots_are_compared(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        row(page, place.second).get_by_role("button", name="Details").click()
        assert cells(page, place.second, "documents") == ["210", "220"]
        page.get_by_label(f"Compare {place.second} with").select_option(place.damaged)
        row(page, place.second).locator("th", has_text=place.damaged).wait_for()
        assert cells(page, place.second, "documents") == ["230", "220"]


def test_everything_can_be_done_with_keys_alone(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("s")
        page.get_by_label("Operator's token").focus()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        row(page, place.second).wait_for()
        for _ in range(30):
            if page.evaluate("document.activeElement.dataset.key") == f"activate-{place.second}":
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.keyboard.type("by keys")
        page.keyboard.press("Enter")
        text(page, "#swap-ids", f"serving {place.second}")


def test_without_tokens_it_says_how_to_make_one(browser: Any, tmp_path: Path) -> None:
    make_snapshot(tmp_path)
    with composed(tmp_path) as parts, listening(parts) as url, visiting(browser, Place(parts, url, ["", "", ""])) as page:
        page.goto(f"{url}/#snapshots")
        text(page, "#operator-error", "python -m service token NAME")
        assert page.locator("#sign-in").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_sticks_out_and_texts_can_be_read(browser: Any, place: Place, viewport: dict[str, int], scheme: str) -> None:
    with visiting(browser, place, viewport, scheme) as page:
        signed_in(page)
        row(page, place.second).get_by_role("button", name="Details").click()
        row(page, place.second).locator("td").first.wait_for()
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate(CONTRASTS) == []
