"""The client for asyncio."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from service.client.answers import BatchAnswer, EmbedAnswer, SearchAnswer
from service.client.calls import Call, CallOptions, SearchItem, SearchOptions, batch_call, embed_call, search_call
from service.client.errors import ClientError, DeadlineError, UnreachableError
from service.client.retry import Retry

A = TypeVar("A", bound=BaseModel)
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=60.0)
"""Nobody waits for a connection: what a call tells the service of its budget would be old by then. Few are kept idle, since
httpx looks at each of them, for each of them, with every call (100: 4 ms, 300: 34 ms); for less than the service's 75 s."""
_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError, ExceptionGroup)
"""httpx lets through what names, ports and headers that are none raise below it."""


class AsyncClient:
    """Keeps connections open between calls; close it, or use it as a context. For one event loop.

    Every call ends within its budget, in an answer or in a ``ClientError``: connecting, waiting, repeated attempts and
    reading the answer included. When it ends early, the connection is closed, at which the service drops the work. A
    budget that is no positive number is a ValueError, one text in place of many a TypeError, and an API key that
    can be none a ValueError.

    Args:
        base_url: of the service, e.g. ``http://localhost:8000``; a path in it is kept.
        timeout_ms: budget of calls that name none.
        api_key: sent with every call, where the service wants one; the line that ends it in a file is no part of it.
        headers: sent with every call, for a proxy in front.
        transport: httpx's, for tests and for special connections.
        clock: monotonic seconds.
        random: uniform in [0, 1), for the jitter of retries.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_ms: float = 1000.0,
        retry: Retry | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.closing = False
        """Set by who cancels what is under way, so that it ends with UnreachableError."""
        self._timeout_ms = _checked(timeout_ms)
        self._retry = retry or Retry()
        self._clock = clock
        self._random = random
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={**(headers or {}), **_key_headers(api_key)},
            timeout=None,  # noqa: S113 - httpx's is for each read and write; the deadline, in _attempt, is for all of them together
            transport=transport,
            limits=_LIMITS,
        )

    async def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchAnswer:
        """Find the documents nearest to a text."""
        return await self._run(search_call(query, options))

    async def search_batch(self, searches: Sequence[SearchItem], **options: Unpack[CallOptions]) -> BatchAnswer:
        """Answer several searches, in order, from one snapshot and within one budget."""
        return await self._run(batch_call(searches, options))

    async def embed(self, texts: Sequence[str], **options: Unpack[CallOptions]) -> EmbedAnswer:
        """Encode queries as a search does."""
        return await self._run(embed_call(texts, options))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _run(self, call: Call[A]) -> A:
        try:
            return await self._answer(call)
        except asyncio.CancelledError as error:
            if self.closing:
                raise UnreachableError("the client was closed before the answer came", call.request_id) from error
            raise

    async def _answer(self, call: Call[A]) -> A:
        timeout_ms = self._timeout_ms if call.timeout_ms is None else _checked(call.timeout_ms)
        end = self._clock() + timeout_ms / 1000.0
        content = call.content()
        made = 0
        while True:
            made += 1
            try:
                return await self._attempt(call, content, timeout_ms, end)
            except ClientError as error:
                wait_ms = self._retry.wait_ms(error, made, (end - self._clock()) * 1000.0, self._random)
                if wait_ms is None:
                    raise
            await asyncio.sleep(wait_ms / 1000.0)

    async def _attempt(self, call: Call[A], content: bytes, timeout_ms: float, end: float) -> A:
        remaining = end - self._clock()
        try:
            async with asyncio.timeout(max(0.0, remaining)):
                response = await self._http.post(call.path, content=content, headers=call.headers(remaining * 1000.0))
        except TimeoutError as error:
            raise DeadlineError(f"no answer within {timeout_ms:g} ms", call.request_id) from error
        except _NO_ANSWER as error:
            url = f"{str(self._http.base_url).rstrip('/')}/{call.path}"
            raise UnreachableError(f"{url}: {_why(error)}", call.request_id) from error
        return call.read(response.status_code, response.headers, response.content)


def _key_headers(api_key: str | None) -> dict[str, str]:
    """None without a key. What can be no header is refused here: the error of each call would quote it."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("api_key is no API key: it is one line of printable ASCII, as python -m service key new shows it")
    return {"X-API-Key": key} if key else {}


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):  # of attempts to connect, which went on together
        error = error.exceptions[0]
    if isinstance(error, httpx.UnsupportedProtocol):
        return "the URL of a service begins with http:// or https://, as in http://localhost:8000"
    return str(error) or type(error).__name__


def _checked(timeout_ms: float) -> float:
    if not 0 < timeout_ms < math.inf:
        raise ValueError(f"timeout_ms is {timeout_ms}; it has to be a positive number of milliseconds")
    return timeout_ms
