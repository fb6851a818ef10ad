"""An HTTP/1.1 client that costs little beside what it measures: plain sockets, one thread, no event loop.

Selectors wake to the millisecond; a wait on the selector's own descriptor wakes to the microsecond, and costs a call more.
"""

from __future__ import annotations

import re
import select
import selectors
import socket
from types import TracebackType
from typing import NamedTuple, Protocol

_SEPARATOR = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 1 << 16
_COARSE_SECONDS = 0.05
"""From this long on, waits may end a millisecond late."""
CLOSED = 0
"""Status of a request whose connection the server closed."""


class Answer(NamedTuple):
    """What came back on a connection: status, header and body."""

    connection: int
    status: int
    head: bytes
    body: bytes


class Wire(Protocol):
    """Connections by number, at most one request under way on each."""

    def send(self, connection: int, request: bytes) -> None: ...

    def wait(self, seconds: float) -> list[Answer]:
        """Answers that are whole, after the first is or ``seconds`` have passed."""
        ...


class Sockets:
    """Keep-alive connections to a port of this machine; one that the server closes is opened again."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._sockets = [self._open(number) for number in range(connections)]
        self._received = [b""] * connections

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._selector.close()
        for opened in self._sockets:
            opened.close()

    def send(self, connection: int, request: bytes) -> None:
        """Send a request that fits into the socket's buffer; a connection found closed shows as an answer."""
        try:
            self._sockets[connection].sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            return  # the selector reports it as readable, and its end is then an answer with the status CLOSED

    def wait(self, seconds: float) -> list[Answer]:
        if 0 < seconds < _COARSE_SECONDS:
            select.select([self._selector], [], [], seconds)
            seconds = 0
        ready = [key.data for key, _ in self._selector.select(seconds)]
        answers = (self._receive(connection) for connection in ready)
        return [answer for answer in answers if answer is not None]

    def _open(self, number: int) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self._port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(opened, selectors.EVENT_READ, number)
        return opened

    def _receive(self, connection: int) -> Answer | None:
        try:
            chunk = self._sockets[connection].recv(_RECEIVE_BYTES)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self._reopen(connection)
            return Answer(connection, CLOSED, b"", b"")
        received = self._received[connection] + chunk
        head, _, body = received.partition(_SEPARATOR)
        length = _LENGTH.search(head)
        is_whole = length is not None and len(body) >= int(length[1])
        self._received[connection] = b"" if is_whole else received
        return Answer(connection, int(head[9:12]), head, body) if is_whole else None

    def _reopen(self, connection: int) -> None:
        self._selector.unregister(self._sockets[connection])
        self._sockets[connection].close()
        self._received[connection] = b""
        self._sockets[connection] = self._open(connection)


def post(path: str, body: bytes) -> bytes:
    """The bytes of a POST request."""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def with_header(request: bytes, name: str, value: str) -> bytes:
    """The bytes of a request that has one header more."""
    line, rest = request.split(b"\r\n", 1)
    return b"%b\r\n%b: %b\r\n%b" % (line, name.encode(), value.encode(), rest)


def get(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
