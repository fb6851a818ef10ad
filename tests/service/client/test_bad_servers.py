"""The client against servers that keep no time and end no answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from scripted import WORKING

from service.client import AsyncClient, DeadlineError, UnreachableError

PATIENT = 30_000.0


@dataclass
class Heard:
    """What a server has heard of its client."""

    url: str = ""
    asked: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def bad_server(feed: Callable[[asyncio.StreamWriter], Any]) -> AsyncIterator[Heard]:
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heard.asked += 1
        try:
            await feed(writer)
        except ConnectionError:
            heard.gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        heard.url = f"http://{host}:{port}"
        yield heard


async def drip(writer: asyncio.StreamWriter, letter: bytes) -> None:
    while True:
        writer.write(letter)
        await writer.drain()
        await asyncio.sleep(0.005)


async def headers_forever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-More: ")
    await drip(writer, b"a")


async def body_forever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    await drip(writer, b" ")


@pytest.mark.parametrize("feed", [headers_forever, body_forever])
def test_a_drip_of_bytes_does_not_stretch_the_deadline_and_is_not_asked_again(
    feed: Callable[[asyncio.StreamWriter], Any],
) -> None:
    async def ask() -> tuple[float, int]:
        async with bad_server(feed) as heard, AsyncClient(heard.url, timeout_ms=1000) as client:
            begun = time.monotonic()
            with pytest.raises(DeadlineError, match="1000 ms"):
                await client.search("apple")
            took = time.monotonic() - begun
            async with asyncio.timeout(10):
                await heard.gone.wait()  # the connection was closed, at which the service drops the work
            return took, heard.asked

    took, asked = asyncio.run(ask())
    assert 0.999 <= took < 10
    assert asked == 1


def test_half_an_answer_is_none_and_not_asked_for_again() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    async def ask() -> int:
        async with bad_server(half) as heard, AsyncClient(heard.url, timeout_ms=PATIENT) as client:
            with pytest.raises(UnreachableError):
                await client.search("apple")
            return heard.asked

    assert asyncio.run(ask()) == 1


def test_no_call_waits_for_the_connection_of_another() -> None:
    many = 150
    together = asyncio.Barrier(many)
    answer = json.dumps(WORKING).encode()

    async def once_all_have_asked(writer: asyncio.StreamWriter) -> None:
        await together.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer))
        writer.write(answer)

    async def ask() -> int:
        async with bad_server(once_all_have_asked) as heard, AsyncClient(heard.url, timeout_ms=10_000) as client:
            await asyncio.gather(*(client.search("apple") for _ in range(many)))
            return heard.asked

    assert asyncio.run(ask()) == many
