"""The console in a real browser, over a real service: what an operator sees and does, by keyboard and on a phone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from crew import Gate
from make_snapshot import make_snapshot
from serving import OPERATOR, TOKEN, composed, tokens_file

from service.app import create_app
from service.parts import Parts
from snapshot.registry import Registry

pytestmark = pytest.mark.slow
INSTALL = "apt-get install -y --no-install-recommends chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1100, "height": 900}, {"width": 360, "height": 740}
WAIT_MS = 20_000
IMAGE = Path(__file__).parents[2] / "docs/images/console-snapshots.png"


def chromium() -> str:
    """Where it is; the tests are left out without it, but not in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = f"the console is not tested: no Chromium is installed (Debian: {INSTALL})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=SWITCHES)
        yield started
        started.close()


class Held:
    """Opens snapshots as the follower's own opener does, but waits before proving one of them until it is told to go on."""

    def __init__(self, parts: Parts) -> None:
        self._opener = parts.follower._opener
        self.inspect = self._opener.inspect
        self.gates: dict[str, Gate] = {}
        parts.follower._opener = self

    def open(self, layout: Any, enter: Any, inspection: Any) -> Any:
        def stepped(step: str) -> None:
            enter(step)
            if step == "proving" and layout.root.name in self.gates:
                self.gates.pop(layout.root.name)()

        return self._opener.open(layout, stepped, inspection)


class Place:
    """A running service with two snapshots, one of them served, and a third that is damaged."""

    def __init__(self, parts: Parts, url: str, ids: list[str]) -> None:
        self.parts, self.url, self.ids = parts, url, ids
        self.first, self.second, self.damaged = ids
        self.held = Held(parts)

    @property
    def history(self) -> list[Any]:
        """What operators did; the service adds what came of it."""
        events = Registry(self.parts.registry.root).history()
        return [event for event in events if event.action in ("activate", "rollback")]


@contextmanager
def listening(parts: Parts) -> Iterator[str]:
    config = uvicorn.Config(create_app(parts), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


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


@contextmanager
def visiting(browser: Any, place: Place, viewport: dict[str, int] = DESKTOP, scheme: str = "light") -> Iterator[Any]:
    """A page of the console, that must end without an error, a blocked resource, or a request to anybody else."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    page.on("request", lambda request: None if request.url.startswith((place.url, "data:")) else faults.append(request.url))
    page.goto(place.url)
    yield page
    context.close()
    assert faults == []


def signed_in(page: Any) -> Any:
    page.keyboard.press("Escape")
    page.get_by_role("link", name="snapshots").click()
    page.get_by_label("Operator's token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#registry .snapshot").first.wait_for()
    return page


def row(page: Any, snapshot_id: str) -> Any:
    return page.locator(f"#snapshot-{snapshot_id}")


def badges(page: Any, snapshot_id: str) -> list[str]:
    return row(page, snapshot_id).locator("h3 .badge").all_inner_texts()


def cells(page: Any, snapshot_id: str, name: str) -> list[str]:
    """Of the first line of that name, in a snapshot's open details; the first line of each cell."""
    heads = row(page, snapshot_id).get_by_role("rowheader", name=name, exact=True)
    heads.first.wait_for()
    return [found.split("\n")[0] for found in heads.first.locator("xpath=..").locator("td").all_inner_texts()]


def declare(page: Any, why: str) -> None:
    page.get_by_label(re.compile("^Why")).fill(why)
    page.keyboard.press("Enter")


def text(page: Any, selector: str, expected: str | re.Pattern[str]) -> None:
    """Wait until an element has a text."""
    page.locator(selector, has_text=expected).wait_for()


def picture(page: Any) -> None:
    """Writes the image of the docs anew where that is asked for."""
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=IMAGE, full_page=True)


def test_a_search_is_answered(browser: Any, place: Place) -> None:
    with visiting(browser, place) as page:
        page.get_by_role("searchbox").fill("apple bread")
        page.keyboard.press("Enter")
        text(page, "#count", "10 hits")
        assert page.locator("#snapshot").inner_text() == place.first
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
        assert row(page, place.first).get_by_role("button", name="Activate").is_disabled()
        assert page.get_by_role("button", name="Roll back").is_disabled()
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
        picture(page)
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


TOO_WIDE = r"""() => [...document.querySelectorAll("body *")]
  .filter((node) => !node.closest(".scroll, details"))
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth)
  .map((node) => `${node.tagName}#${node.id}.${node.className} ${node.textContent.slice(0, 40)}`)"""
"""What is wider than the window and does not scroll by itself."""

CONTRASTS = r"""() => {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => colour.slice(0, 3).map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const written = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && !node.disabled && written(node))
    .map((node) => [luminance(channels(getComputedStyle(node).color)), luminance(paper(node)), node])
    .map(([ink, ground, node]) => [(Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), node])
    .filter(([ratio]) => ratio < 4.5)
    .map(([ratio, node]) => `${node.tagName}.${node.className} ${ratio.toFixed(2)}: ${node.textContent.slice(0, 40)}`);
}"""
"""Texts with less contrast to their ground than 4.5, as WCAG 2 reckons it (success criterion 1.4.3)."""
