"""HTTP as sockets see it: clients that say what they are told, whole or in pieces."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from typing import Any

CONNECT_SECONDS = 10.0
_LENGTH = b"content-length:"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Wire:
        """A connection to loopback."""
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), CONNECT_SECONDS))

    async def send(self, data: bytes) -> None:
        """Send, as fast as the other side takes it."""
        self._writer.write(data)
        await self._writer.drain()

    async def trickle(self, pieces: Iterable[bytes], pause_seconds: float) -> None:
        """Send each piece by itself."""
        for piece in pieces:
            await self.send(piece)
            await asyncio.sleep(pause_seconds)

    async def answer(self, timeout_seconds: float = 30.0) -> tuple[int, bytes]:
        """Status and body of the next answer that is not 1xx.

        Raises:
            ConnectionError: the server closed the connection instead.
            TimeoutError: it did not come in time.
        """
        async with asyncio.timeout(timeout_seconds):
            return await self._answer()

    async def _answer(self) -> tuple[int, bytes]:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            if status < 200:
                return await self._answer()
            start = head.find(_LENGTH)
            length = int(head[start + len(_LENGTH) :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            return status, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("closed without an answer") from error

    async def ask(self, request: bytes, timeout_seconds: float = 30.0) -> int:
        """Send a request; the status of its answer."""
        await self.send(request)
        return (await self.answer(timeout_seconds))[0]

    async def until_closed(self, timeout_seconds: float) -> bool:
        """Read and throw away; whether the server closed in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while await self._reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def half_close(self) -> None:
        """End what is sent, and go on reading."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Close with a reset, as a process that is killed does with unread bytes."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


def get(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: load\r\n\r\n".encode()


def post(path: str, body: Any, *headers: str) -> bytes:
    """The bytes of a POST request with a JSON body."""
    return post_head(path, *headers) + _content(json.dumps(body).encode())


def post_head(path: str, *headers: str) -> bytes:
    """The headers of a POST request, without their end."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: load", *headers, ""]).encode()


def _content(raw: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw)


def search(number: int, timeout_ms: float | None = None) -> bytes:
    """A search; numbers make texts differ, so that no cache answers."""
    budget = {} if timeout_ms is None else {"timeout_ms": timeout_ms}
    return post("/search", {"query": f"apple lamp {number}", "k": 3, **budget})
