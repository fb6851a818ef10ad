"""The console's page in a real browser, and what tests of it do there."""

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
from serving import TOKEN

from service.app import create_app
from service.parts import Parts
from snapshot.registry import Registry

INSTALL = "apt-get install -y --no-install-recommends chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1100, "height": 900}, {"width": 390, "height": 844}
WAIT_MS = 60_000
IMAGES = Path(__file__).parents[1] / "docs/images"


def chromium() -> str:
    """Where it is; the tests are left out without it, but not in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = f"the console is not tested: no Chromium is installed (Debian: {INSTALL})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


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
    """Again where the follower is just trying a refused snapshot once more, as an operator would."""
    page.get_by_label(re.compile("^Why")).fill(why)
    end = time.monotonic() + WAIT_MS / 1000
    while True:
        with page.expect_response(lambda response: response.request.method == "POST", timeout=WAIT_MS) as posted:
            page.keyboard.press("Enter")
        if posted.value.status != 409 or posted.value.json()["code"] != "swap_running":
            return
        page.locator("#change-go:not([disabled])").wait_for()
        assert time.monotonic() < end, "a swap that does not end"


def text(page: Any, selector: str, expected: str | re.Pattern[str]) -> None:
    """Wait until an element has a text."""
    page.locator(selector, has_text=expected).wait_for()


def picture(page: Any, name: str) -> None:
    """Writes an image of the docs anew where that is asked for, so that a run of the tests changes no file."""
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=IMAGES / f"console-{name}.png")


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
