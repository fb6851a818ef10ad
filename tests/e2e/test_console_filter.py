"""A filter reaches the service as it was typed, and what is no filter is told before it is sent."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from console_page import Place, signed_in, text, visiting

pytestmark = pytest.mark.slow
BIG = "9007199254740993"  # 2^53 + 1, which a double cannot hold
TYPED = f'{{"number": {{"$lt": {BIG}}}}}'


def ask(page: Any) -> None:
    page.get_by_role("searchbox").fill("apple bread")
    page.keyboard.press("Enter")
    page.locator("#columns .hit").first.wait_for()


def sent(page: Any, path: str) -> list[str]:
    """Filled with the bodies of requests to it from now on."""
    bodies: list[str] = []
    page.on("request", lambda one: bodies.append(one.post_data) if urlsplit(one.url).path == path else None)
    return bodies


def add(page: Any, column: str, operator: str, value: str) -> None:
    page.get_by_label("Column", exact=True).select_option(label=column)
    page.get_by_label("Operator", exact=True).select_option(operator)
    page.get_by_label("Value", exact=True).fill(value)
    page.get_by_role("button", name="Add to filter").click()


def test_integers_beyond_doubles_are_sent_and_shown_digit_for_digit(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        bodies = sent(page, "/search")
        page.locator("#filter").fill(TYPED)
        page.get_by_label("beside it").select_option("exact")
        ask(page)
        assert len(bodies) == 3
        assert [body.count(TYPED) for body in bodies] == [1, 1, 1]
        assert TYPED in page.locator("#curl").text_content()
        assert parse_qs(urlsplit(page.url).query)["filter"] == [TYPED]


def test_operators_send_them_so_too(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        page.get_by_role("link", name="search").click()
        bodies = sent(page, f"/snapshots/{place.first}/search")
        page.locator("#filter").fill(TYPED)
        page.get_by_label("effort").select_option("16")
        ask(page)
        assert [body.count(TYPED) for body in bodies] == [1]


def test_conditions_keep_the_digits_of_what_was_there_and_of_what_is_added(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.locator("#filter").fill(f'{{"number": {BIG} }}')
        add(page, "kind", "$eq", "toy")
        assert page.locator("#filter").input_value() == f'{{"number": {BIG} ,"kind":{{"$eq":"toy"}}}}'
        page.locator("#filter").fill("{ }")
        add(page, "number", "$in", f"1, {BIG}")
        assert page.locator("#filter").input_value() == f'{{"number":{{"$in":[1,{BIG}]}}}}'
        add(page, "number", "$ne", "1")
        assert page.locator("#filter").input_value() == f'{{"$and":[{{"number":{{"$in":[1,{BIG}]}}}},{{"number":{{"$ne":1}}}}]}}'


@pytest.mark.parametrize("wrong", ["null", "[1]", "{broken", '"text"'])
def test_what_is_no_filter_is_told_left_as_it_is_and_not_sent(browser: Any, place: Place, wrong: str) -> None:
    with visiting(browser, place) as page:
        bodies = sent(page, "/search")
        page.locator("#filter").fill(wrong)
        add(page, "kind", "$eq", "toy")
        text(page, "#filter-error", "The filter is not")
        assert page.locator("#filter").input_value() == wrong
        page.get_by_role("searchbox").fill("apple bread")
        page.keyboard.press("Enter")
        text(page, "#error-detail", "The filter is not")
        assert bodies == []
