"""A closed-loop HTTP/1.1 client whose own cost is small beside what it measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

_SEPARATOR = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True)
class Load:
    """What a closed loop saw.

    Attributes:
        latencies_ms: one per request, in the order of their ends.
        seconds: how long it took.
        failed: answers other than 200.
    """

    latencies_ms: list[float]
    seconds: float
    failed: int

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[int] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_SEPARATOR)
        if end < 0:
            return
        head = self._buffer[:end].lower()
        start = head.find(_LENGTH)
        if start < 0:
            raise ValueError("the answer has no content-length")
        length = int(head[start + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if len(self._buffer) >= end + len(_SEPARATOR) + length and self._waiter is not None:
            self._buffer = b""
            self._waiter.set_result(int(head[9:12]))

    async def send(self, request: bytes) -> int:
        """Send a request and return the status of its answer."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def post(path: str, body: bytes) -> bytes:
    """The bytes of a POST request."""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Each of ``connections`` sends its next request as soon as it has its answer, for ``seconds``."""
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(connections)]
    latencies: list[float] = []
    statuses: list[int] = []
    started = time.perf_counter()

    async def drive(connection: _Connection, first: int) -> None:
        position = first
        while (begun := time.perf_counter()) - started < seconds:
            statuses.append(await connection.send(requests[position % len(requests)]))
            latencies.append((time.perf_counter() - begun) * 1e3)
            position += connections

    await asyncio.gather(*(drive(connection, i) for i, connection in enumerate(opened)))
    elapsed = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return Load(latencies, elapsed, sum(status != 200 for status in statuses))
