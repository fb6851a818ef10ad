"""What an answer leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from manual_clock import ManualClock
from serving import composed
from starlette.types import Message

from service.app import create_app
from service.parts import Parts
from service.scopes import EXTENSION, REPLY
from service.walk import Caller


def test_an_answer_has_taken_as_long_as_until_it_was_handed_to_the_transport(registry: Path) -> None:
    """The books are made a turn of the event loop later, by when the kernel has sent it and its caller may have gone on."""
    clock = ManualClock()
    with composed(registry, clock, threads=1) as parts:
        asyncio.run(_one_search(parts, clock))
        for name, labels in (
            ("request_seconds_sum", {"route": "/search"}),
            ("stage_seconds_sum", {"stage": "reply"}),
        ):
            found = parts.metrics.registry.get_sample_value(f"scalingnote_{name}", labels)
            assert found == pytest.approx(0), name


async def _one_search(parts: Parts, clock: ManualClock) -> None:
    body = b'{"query": "apple", "k": 3}'
    statuses, began = [], clock()

    def reply(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        statuses.append(status)
        asyncio.get_running_loop().call_soon(clock.advance_ms, 50)
        return True

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http", "method": "POST", "path": "/search", "query_string": b"",
        "extensions": {REPLY: reply, EXTENSION: Caller()},
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }  # fmt: skip
    await create_app(parts)(scope, receive, send)
    await asyncio.sleep(0)
    assert (statuses, clock()) == ([200], began + 0.05)
