"""Requests that a proxy in front might end elsewhere than we do: none of them is taken for two."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from sockets import HEAD, OK, Running, run

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
SIZE = b"%d" % len(HIDDEN)
AMBIGUOUS = {
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: " + SIZE + b"\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, " + SIZE + b"\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a hexadecimal length": b"Content-Length: 0x10\r\n\r\n",
    "a space before the colon": b"Content-Length: " + SIZE + b"\r\nTransfer-Encoding : chunked\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a folded line": b"X: a\r\n Content-Length: 5\r\n\r\n",
    "a carriage return alone": b"X: a\rContent-Length: 100\r\n\r\n",
    "a NUL": b"X: a\x00b\r\n\r\n",
    "a line feed in a chunk's extension": b"Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n",
    "a chunk beyond all numbers": b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_refused_and_what_follows_it_is_not_read(rest: bytes) -> None:
    async def ask(running: Running) -> None:
        client = await running.client(b"POST / HTTP/1.1\r\nHost: x\r\n" + rest + HIDDEN)
        assert await client.problem() == (b"400", "request_malformed")
        assert running.closed("malformed") == 1
        assert running.app.callers.qsize() <= 1

    run(ask)


def test_lines_must_end_as_http_has_it() -> None:
    async def ask(running: Running) -> None:
        client = await running.client(b"POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + HIDDEN)
        assert await client.problem() == (b"400", "request_malformed")
        assert running.app.callers.empty()

    run(ask)


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
WITH_BODY = {
    "length": (b"Content-Length: " + SIZE + b"\r\n\r\n", HIDDEN),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
}


@pytest.mark.parametrize("offer", [OFFER, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"], ids=["h2c", "websocket"])
@pytest.mark.parametrize("framing", WITH_BODY.values(), ids=WITH_BODY)
@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in two"])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_a_body(
    offer: bytes, framing: tuple[bytes, bytes], apart: bool
) -> None:
    async def offer_it(running: Running) -> None:
        head, body = HEAD + offer + framing[0], framing[1]
        client = await running.client(*((head, body) if apart else (head + body,)))
        assert (await client.head()).startswith(OK)
        assert bytes(running.app.body) == HIDDEN
        await client.send(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        assert (await client.rest()).count(OK) == 1
        assert running.app.callers.qsize() == 2

    run(offer_it)


def test_what_is_pipelined_behind_such_an_offer_is_answered() -> None:
    async def pipeline(running: Running) -> None:
        get = b"GET / HTTP/1.1\r\nHost: x\r\n"
        client = await running.client((get + OFFER + b"\r\n") * 3 + get + b"Connection: close\r\n\r\n")
        assert (await client.rest()).count(OK) == 4

    run(pipeline)


def test_an_offer_may_come_byte_by_byte_and_expect_to_be_told_to_go_on() -> None:
    async def drip(running: Running) -> None:
        running.app.reads_body = True
        head = HEAD + OFFER + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        client = await running.client(*[bytes([byte]) for byte in head])
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"{}")
        assert (await client.head()).startswith(OK)
        assert bytes(running.app.body) == b"{}"

    run(drip)


@pytest.mark.parametrize("target", [b"x:80", b"/search"])
def test_nobody_is_connected_elsewhere(target: bytes) -> None:
    async def connect(running: Running) -> None:
        client = await running.client(b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN)
        assert await client.problem() == (b"400", "request_malformed")
        assert running.app.callers.empty()

    run(connect)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_that_asks_for_http_2_is_answered(tmp_path: Path) -> None:
    async def ask(running: Running) -> None:
        body = tmp_path / "body"
        body.write_bytes(b"x" * 200_000)
        url = f"http://127.0.0.1:{running.port}/"
        command = ["curl", "-s", "--http2", "-o", "/dev/null", "-w", "%{http_code} ", "--data-binary", f"@{body}", url, url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20, check=True)
        assert done.stdout.startswith(b"204 ")
        assert bytes(running.app.body) == body.read_bytes()

    run(ask)
