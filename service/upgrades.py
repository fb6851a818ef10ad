"""Requests that offer another protocol (``Upgrade: h2c``, as Java's client and ``curl --http2`` do), read as what they are.

RFC 9110 lets a server ignore the offer: the request is then HTTP/1.1 like any other. The parser cannot be told so: it takes
such a request to end with its headers, and whatever follows, its body first, for something that is not its business. So the
same request is given to a new parser without the offer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from httptools import HttpParserUpgrade, HttpRequestParser


class Parsing(Protocol):
    """A connection whose parser that is, and what the parser has told it of the last head."""

    parser: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]


def feed(connection: Parsing, data: bytes) -> None:
    """Parse ``data``, and each request that makes an offer once more: one read may carry many of them.

    Raises:
        HttpParserError: as the parser does.
    """
    rest: bytes | memoryview = data
    while rest:
        try:
            connection.parser.feed_data(rest)
            return
        except HttpParserUpgrade as offered:
            rest = memoryview(rest)[offered.args[0] :]
        parser = connection.parser
        head = _without_offer(parser.get_method(), connection.url, parser.get_http_version(), connection.headers)
        connection.parser = HttpRequestParser(connection)
        connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        connection.parser.feed_data(head)


def _without_offer(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request's head again; parsed headers have no line ends in them."""
    kept = b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"upgrade"])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), kept)
