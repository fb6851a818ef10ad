"""Requests that a proxy in front might end elsewhere than we do: none of them is taken for two."""

from __future__ import annotations

import pytest
from sockets import Running, run

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
