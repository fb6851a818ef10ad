"""On a phone: names and figures as long as they come, none wider than the window and no number broken in two."""

from __future__ import annotations

from typing import Any

import pytest
from console_page import CONTRASTS, PHONE, TOO_WIDE, Place, cells, row, signed_in, visiting

pytestmark = pytest.mark.slow
LONG = "multilingual_e5_large_distilled_" * 3
FIGURES = {"value": 70_343_300, "limit": "56,274,640 to 140,686,600", "detail": "documents of what serves and of this one, " * 4}
SMALL = {"width": 320, "height": 640}


def renamed(route: Any) -> None:
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace('"name":"toy"', f'"name":"{LONG}"'))


def grown(route: Any) -> None:
    answer = route.fetch()
    report = answer.json()
    report["checks"] = [{**check, **FIGURES} for check in report["checks"]]
    route.fulfill(response=answer, json=report)


@pytest.mark.parametrize("viewport", [SMALL, PHONE, {"width": 600, "height": 900}], ids=lambda size: str(size["width"]))
def test_no_number_of_a_report_is_broken_in_two(browser: Any, place: Place, viewport: dict[str, int]) -> None:
    with visiting(browser, place, viewport) as page:
        page.route("**/gate", grown)
        signed_in(page)
        row(page, place.first).get_by_role("button", name="Details").click()
        assert cells(page, place.first, "documents")[:2] == ["70,343,300", "56,274,640 to 140,686,600"]
        row(page, place.first).locator("tr.differs").first.wait_for()
        assert page.evaluate(BROKEN) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_each_check_is_a_block_with_the_names_of_its_figures(browser: Any, place: Place) -> None:
    with visiting(browser, place, PHONE) as page:
        page.route("**/gate", grown)
        signed_in(page)
        row(page, place.first).get_by_role("button", name="Details").click()
        row(page, place.first).locator("td").first.wait_for()
        assert page.evaluate(HEADS) == ["value", "limit", "verdict"]
        assert (
            page.evaluate("[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length")
            == 0
        )


def test_a_long_name_wraps(browser: Any, place: Place) -> None:
    with visiting(browser, place, PHONE) as page:
        page.route("**/info", renamed)
        page.reload()
        page.locator("#status", has_text=LONG).wait_for()
        for view in ("search", "live"):
            page.get_by_role("link", name=view).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            assert page.evaluate(TOO_WIDE) == []
            assert page.evaluate(CONTRASTS) == []


BROKEN = r"""() => [...document.querySelectorAll("td.figure")].flatMap((cell) => {
  const [text] = cell.childNodes;
  return [...text.data.matchAll(/\d[\d.,]*/g)].filter((found) => {
    const range = document.createRange();
    range.setStart(text, found.index);
    range.setEnd(text, found.index + found[0].length);
    return range.getClientRects().length > 1;
  }).map(([number]) => number);
})"""
"""Numbers that go over the end of a line."""

HEADS = r"""() => [...document.querySelector(".report td").parentElement.querySelectorAll("td")]
  .map((cell) => getComputedStyle(cell, "::before").content.replaceAll('"', ""))"""
"""What is written before the cells of the first check."""
