"""A client whose server says what a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from service.client import AsyncClient, ClientError, SearchAnswer

WORKING: dict[str, Any] = {"hits": [], "degraded": None, "truncated": False, "snapshot": "s", "timings_ms": {}, "request_id": "r"}
PATIENT = 30_000.0


class Script:
    """A transport that answers as told, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.asked: list[httpx.Request] = []
        self._answers = list(answers)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._answers.pop(0)


def outcome(script: Script, timeout_ms: float = PATIENT, **options: Any) -> SearchAnswer | ClientError:
    async def ask() -> SearchAnswer:
        async with AsyncClient("http://service", transport=script.transport(), **options) as client:
            return await client.search("apple", timeout_ms=timeout_ms)

    try:
        return asyncio.run(ask())
    except ClientError as error:
        return error


def page_of_another(status: int, retry_after: str | None, **headers: str) -> httpx.Response:
    told = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(status, text="<html>", headers={"content-type": "text/html", **told, **headers})
