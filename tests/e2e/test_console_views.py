"""What the console shows besides: searches side by side, the last minutes, colours; and its pictures for the docs."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_page import (
    CONTRASTS,
    PHONE,
    TOO_WIDE,
    WAIT_MS,
    Place,
    picture,
    row,
    signed_in,
    text,
    visiting,
)
from make_snapshot import make_oracle
from manual_clock import ManualClock
from serving import TOKEN

from service.generation import GenerationOptions, open_generation
from service.history import INTERVAL_SECONDS, KEPT_SECONDS
from snapshot.layout import Layout

pytestmark = pytest.mark.slow
QUERY = "apple bread"
PICTURE = {"width": 1100, "height": 760}
PATIENT_MS = 10_000  # others may be busy with the cores
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


def ask(page: Any, query: str = QUERY) -> None:
    if page.get_by_label("budget, ms").is_enabled():
        page.get_by_label("budget, ms").fill(str(PATIENT_MS))
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")
    page.locator("#columns .hit").first.wait_for()


def ids(column: Any) -> list[str]:
    return [hit.get_attribute("data-id") for hit in column.locator("ol").first.locator(".hit").all()]


def lived(place: Place, searches: int = 12) -> None:
    """Let the service have a few samples of searches."""
    with httpx.Client(base_url=place.url) as client:
        for _ in range(3):
            for _ in range(searches):
                assert client.post("/search", json={"query": QUERY, "timeout_ms": PATIENT_MS}).status_code == 200
            place.parts.history.sample()


def lived_long(place: Place) -> None:
    """Let a quarter of an hour of searches, which come and go, have been in seconds."""
    history, clock = place.parts.history, ManualClock(0.0)
    began = datetime.now(UTC) - timedelta(seconds=KEPT_SECONDS)
    history._clock, history._now = clock, lambda: began + timedelta(seconds=clock())
    history._before = history._before._replace(at=clock())
    with httpx.Client(base_url=place.url) as client:
        for number in range(round(KEPT_SECONDS / INTERVAL_SECONDS)):
            for _ in range(3 + round(2 * math.sin(number / 12))):
                assert client.post("/search", json={"query": QUERY, "timeout_ms": PATIENT_MS}).status_code == 200
            clock.advance_ms(1000 * INTERVAL_SECONDS)
            history.sample()


def swapped(place: Place) -> None:
    """Let the second snapshot serve, without the gate that other tests are about."""
    place.parts.follower.stop(WAIT_MS / 1000)
    layout = Layout(place.parts.registry.root / place.second)
    place.parts.generations.replace(open_generation(layout, GenerationOptions(batching=False), lambda _: None))


def test_a_filter_is_built_from_the_columns(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.get_by_label("Column", exact=True).select_option(label="kind")
        page.get_by_label("Operator", exact=True).select_option("$in")
        page.get_by_label("Value", exact=True).fill("toy, book")
        page.get_by_role("button", name="Add to filter").click()
        page.get_by_label("Column", exact=True).select_option(label="number")
        page.get_by_label("Operator", exact=True).select_option("$lt")
        page.get_by_label("Value", exact=True).fill("ten")
        page.keyboard.press("Enter")
        text(page, "#filter-error", "number is of type")
        page.get_by_label("Value", exact=True).fill("9")
        page.keyboard.press("Enter")
        assert page.locator("#filter").input_value() == '{"kind":{"$in":["toy","book"]},"number":{"$lt":9}}'
        ask(page)
        assert sorted(ids(page.locator(".column"))) == sorted(f"doc-{row}" for row in range(9) if row % 3 != 1)


def test_a_column_may_have_spaces_in_its_name(browser: Any, place: Place) -> None:
    def renamed(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace('"name":"kind"', '"name":"kind of thing"'))

    with visiting(browser, place) as page:
        page.route("**/info", renamed)
        page.reload()
        page.get_by_label("Column", exact=True).select_option(label="kind of thing")
        page.get_by_label("Value", exact=True).fill("toy")
        page.keyboard.press("Enter")
        assert page.locator("#filter").input_value() == '{"kind of thing":{"$eq":"toy"}}'


def test_exact_and_approximate_side_by_side_say_why_a_hit_is_there(browser: Any, place: Place) -> None:
    order = [f"doc-{row}" for row in make_oracle(210, seed=1).rows([QUERY], 100)[0]]
    with visiting(browser, place) as page:
        page.get_by_label("beside it").select_option("exact")
        ask(page)
        text(page, ".column:nth-child(2) h2", "Exact")
        approximate, exact = page.locator(".column").all()
        assert ids(exact) == order[:10]
        found = ids(approximate)
        for hit, why in zip(found, approximate.locator(".why").all_inner_texts(), strict=True):
            assert why.endswith(f"exact rank {order.index(hit) + 1}")
        text(page, ".note", f"{len(set(found) & set(order[:10]))} of 10 exact hits found")


def test_two_snapshots_and_an_effort_are_for_operators(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.get_by_label("effort").select_option("16")
        page.get_by_role("searchbox").fill(QUERY)
        page.keyboard.press("Enter")
        text(page, "#error-title", "Operators only")
        signed_in(page)
        swapped(place)
        page.reload()
        row(page, place.second).locator(".badge", has_text=re.compile("^serving")).wait_for()
        row(page, place.first).locator(".badge", has_text="kept open").wait_for()
        page.get_by_role("link", name="search").click()
        page.get_by_label("effort").select_option("16")
        assert page.locator("#timeout").is_disabled()
        assert page.locator("#exact").is_disabled()
        page.get_by_label("beside it").select_option("exact")
        ask(page)
        text(page, ".column .note", "effort 16")
        assert page.locator("#curl").is_hidden()
        page.get_by_label("beside it").select_option(place.first)
        ask(page)
        text(page, ".column:nth-child(2) h2", "Compared")
        assert page.locator(".column .snapshot-id").all_inner_texts() == [place.second, place.first]
        for seed, rows, column in zip((2, 1), (220, 210), page.locator(".column").all(), strict=True):
            best = [f"doc-{row}" for row in make_oracle(rows, seed=seed).rows([QUERY], 10)[0]]
            shown = [hit.get_attribute("data-id") for hit in column.locator(".hit").all()]
            assert set(best) <= set(shown)
            assert column.locator(".note", has_text="effort 16").count() == 1


def test_the_last_minutes_are_drawn(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.get_by_role("link", name="live").click()
        text(page, "#live-about", "first point")
        text(page, "#chart-rate", "no requests")
        lived(place)
        page.reload()
        text(page, "#chart-recall", "not measured")
        label = page.locator("#chart-latency svg").get_attribute("aria-label")
        last = place.parts.history.samples[-1]
        assert last.p99_ms is not None
        assert "budget" in label
        assert f"p99 {last.p99_ms:.2f} ms" in label or f"p99 {last.p99_ms:.0f} ms" in label
        assert len(page.locator("#chart-rate polyline").get_attribute("points").split()) == 3


def test_colours_can_be_chosen_and_are_kept(browser: Any, place: Place) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with visiting(browser, place) as page:
        light = page.evaluate(paper)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Use dark colours").click()
        dark = page.evaluate(paper)
        assert dark != light
        page.reload()
        assert page.evaluate(paper) == dark
        page.get_by_role("button", name="Use light colours").click()
        assert page.evaluate(paper) == light


def test_views_have_keys(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        for key, focused in (("l", "#view-live"), ("s", "#token"), ("/", "#query")):
            page.keyboard.press("Escape")
            page.keyboard.press(key)
            page.locator(f"{focused}:focus").wait_for()


def test_escape_leaves_a_field_with_what_was_typed(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.keyboard.type("apple")
        page.keyboard.press("Escape")
        assert page.get_by_role("searchbox").input_value() == "apple"
        page.keyboard.press("l")
        page.locator("#view-live").wait_for()
        page.keyboard.press("/")
        page.locator("#query:focus").wait_for()
        page.locator("#effort").focus()
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        page.locator("#view-snapshots").wait_for()


def test_who_comes_to_the_snapshots_is_where_the_keys_go(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        page.locator("#token:focus").wait_for()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.locator("#registry:focus").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Activate"
        page.keyboard.press("l")
        page.locator("#view-live:focus").wait_for()
        page.keyboard.press("s")
        page.locator("#registry:focus").wait_for()
        page.get_by_role("button", name="Forget the token").click()
        page.locator("#token:focus").wait_for()


def test_every_control_and_picture_has_a_name(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        ask(page)
        page.get_by_role("link", name="live").click()
        page.locator("#chart-rate").wait_for()
        assert page.evaluate(NAMELESS) == []


@SCHEMES
def test_on_a_phone_nothing_sticks_out(browser: Any, place: Place, scheme: str) -> None:
    lived(place)
    with visiting(browser, place, PHONE, scheme) as page:
        page.get_by_label("beside it").select_option("exact")
        ask(page)
        for view in ("search", "live"):
            page.get_by_role("link", name=view).click()
            page.locator(f"#view-{view}").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            assert page.evaluate(TOO_WIDE) == []
            assert page.evaluate(CONTRASTS) == []


@SCHEMES
def test_pictures_of_the_views(browser: Any, place: Place, scheme: str) -> None:
    """What the docs show is what the tests saw: written with SCREENSHOTS=1, and looked for in any case."""
    lived_long(place)
    with visiting(browser, place, PICTURE, scheme) as page:
        page.get_by_label("beside it").select_option("exact")
        ask(page)
        picture(page, f"search-{scheme}")
        page.get_by_role("link", name="live").click()
        page.locator("#chart-rate polyline").wait_for()
        picture(page, f"live-{scheme}")
        signed_in(page)
        row(page, place.second).get_by_role("button", name="Details").click()
        row(page, place.second).locator("td").first.wait_for()
        picture(page, f"snapshots-{scheme}")
    images = Path(__file__).parents[2] / "docs/images"
    for view in ("search", "live", "snapshots"):
        assert 0 < (images / f"console-{view}-{scheme}.png").stat().st_size < 150_000


NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, svg, [role=img]")]
  .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length))
  .map((node) => `${node.tagName}#${node.id}`)"""
"""Controls and pictures that a screen reader has no name for."""
