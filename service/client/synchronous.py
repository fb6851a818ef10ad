"""The client for threads: the asynchronous one on an event loop of its own, in a thread of its own.

So that a deadline is one: blocking sockets have time limits for each read and write, and none for looking up a name.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from service.client.answers import BatchAnswer, EmbedAnswer, SearchAnswer
from service.client.asynchronous import AsyncClient
from service.client.calls import CallOptions, SearchItem, SearchOptions
from service.client.retry import Retry

T = TypeVar("T")


class Client:
    """``AsyncClient`` for code that waits; threads may share it. Close it, or use it as a context. Make it after a fork."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_ms: float = 1000.0,
        retry: Retry | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = AsyncClient(
            base_url, timeout_ms=timeout_ms, retry=retry, api_key=api_key, headers=headers, transport=transport
        )
        self._lock = threading.Lock()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scalingnote-client", daemon=True)
        self._thread.start()

    def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchAnswer:
        """Find the documents nearest to a text."""
        return self._wait(self._client.search(query, **options))

    def search_batch(self, searches: Sequence[SearchItem], **options: Unpack[CallOptions]) -> BatchAnswer:
        """Answer several searches, in order, from one snapshot and within one budget."""
        return self._wait(self._client.search_batch(searches, **options))

    def embed(self, texts: Sequence[str], **options: Unpack[CallOptions]) -> EmbedAnswer:
        """Encode queries as a search does."""
        return self._wait(self._client.embed(texts, **options))

    def close(self) -> None:
        """Close the connections and end the thread; once is enough, more does nothing.

        Calls of other threads that are under way end with UnreachableError.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._client.closing = True
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closing:
                work.close()
                raise RuntimeError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # ctrl-C in the caller's thread: what nobody waits for any more must not go on
            future.cancel()
            raise
