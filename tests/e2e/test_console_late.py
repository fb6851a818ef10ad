"""Answers that come late, in another order than they were asked for, or from a proxy: the console shows none in a wrong place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from console_page import WAIT_MS, Place, cells, row, signed_in, text, visiting

pytestmark = pytest.mark.slow
OPEN, SHUT = "Hide details", "Details"


class Kept:
    """Questions of the page that wait for their answers."""

    def __init__(self) -> None:
        self.routes: list[Any] = []

    def asked(self, page: Any, count: int) -> None:
        """Wait until so many were asked."""
        end = time.monotonic() + WAIT_MS / 1000
        while len(self.routes) < count:
            assert time.monotonic() < end, "the page does not ask"
            page.wait_for_timeout(10)

    def answer(self, page: Any) -> None:
        """All of them, the oldest last, as the service does; then wait until the page has read a later answer."""
        for route in reversed(self.routes):
            route.fulfill(response=route.fetch())
        page.evaluate("fetch('/livez').then((answer) => answer.text())")


@contextmanager
def kept(page: Any, pattern: str) -> Iterator[Kept]:
    """Answers to what matches are kept back meanwhile."""
    questions = Kept()
    page.route(pattern, lambda route: questions.routes.append(route))
    yield questions
    page.unroute(pattern)


def toggle(page: Any, snapshot_id: str, name: str) -> None:
    row(page, snapshot_id).get_by_role("button", name=name, exact=True).click()


def shown(page: Any) -> dict[str, tuple[str, int]]:
    """By snapshot: what its button says, and how many blocks of details it has."""
    found = page.locator("#registry > .snapshot").all()
    return {
        each.get_attribute("id").removeprefix("snapshot-"): (
            each.get_by_role("button", name="etails").inner_text(),
            each.locator(".details").count(),
        )
        for each in found
    }


def test_details_of_another_are_not_joined_by_those_asked_for_before(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        with kept(page, f"**/snapshots/{place.first}/gate") as gate:
            toggle(page, place.first, SHUT)
            gate.asked(page, 1)
            toggle(page, place.second, SHUT)
            cells(page, place.second, "documents")
            gate.answer(page)
        assert shown(page) == {place.first: (SHUT, 0), place.second: (OPEN, 1), place.damaged: (SHUT, 0)}


def test_details_that_were_closed_stay_closed(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        with kept(page, f"**/snapshots/{place.first}/gate") as gate:
            toggle(page, place.first, SHUT)
            gate.asked(page, 1)
            toggle(page, place.first, OPEN)
            row(page, place.first).get_by_role("button", name=SHUT, exact=True).wait_for()
            gate.answer(page)
        assert shown(page)[place.first] == (SHUT, 0)


def test_details_opened_twice_are_there_once(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        with kept(page, f"**/snapshots/{place.first}/gate") as gate:
            toggle(page, place.first, SHUT)
            gate.asked(page, 1)
            toggle(page, place.first, OPEN)
            toggle(page, place.first, SHUT)
            gate.asked(page, 2)
            gate.answer(page)
        cells(page, place.first, "documents")
        assert shown(page)[place.first] == (OPEN, 1)


def test_the_difference_is_to_the_snapshot_that_is_chosen(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        toggle(page, place.second, SHUT)
        assert cells(page, place.second, "documents") == ["210", "220"]
        choice = page.get_by_label(f"Compare {place.second} with")
        choice.select_option(place.damaged)
        row(page, place.second).locator("th", has_text=place.damaged).wait_for()
        choice.focus()
        with kept(page, f"**/snapshots/{place.first}/diff/*") as diff:
            choice.select_option(place.first)
            diff.asked(page, 1)
            assert row(page, place.second).locator("th", has_text=place.damaged).count() == 0
            choice.select_option(place.damaged)
            row(page, place.second).locator("th", has_text=place.damaged).wait_for()
            diff.answer(page)
        assert cells(page, place.second, "documents") == ["230", "220"]
        assert page.evaluate("document.activeElement.tagName") == "SELECT"  # for the next key


def test_what_a_proxy_answers_in_place_of_the_last_minutes_is_said(browser: Any, place: Place) -> None:
    problem = {"title": "Not Found", "status": 404, "detail": "ask each replica by its own address", "code": "not_found"}
    with visiting(browser, place) as page:
        page.route("**/history", lambda route: route.fulfill(status=404, json=problem))
        page.get_by_role("link", name="live").click()
        text(page, "#live-error", "Not Found: ask each replica by its own address. The last minutes are those of one process")
        page.route("**/history", lambda route: route.fulfill(status=502, body="<html>"))
        page.reload()
        text(page, "#live-error", "HTTP 502 without JSON")
        page.unroute("**/history")
        page.reload()
        page.locator("#chart-rate").wait_for()
        assert page.locator("#live-error").is_hidden()


def test_a_token_that_was_forgotten_shows_nothing_more(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        signed_in(page)
        with kept(page, "**/snapshots/swap") as swap:
            swap.asked(page, 1)
            page.get_by_role("button", name="Forget the token").click()
            swap.answer(page)
        assert page.locator("#operator").is_hidden()
        assert page.locator("#sign-in").is_visible()
