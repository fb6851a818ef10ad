"""The receiving half of a client's connection: what comes is bounded, parsed, and made into requests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from httptools import HttpParserError
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import HeadersTooLargeError, MalformedRequestError, ServiceError
from service.scopes import BEGAN
from service.upgrades import feed

if TYPE_CHECKING:
    from service.connections import Connection, Connections

_MOST_HEAD_BYTES = 64 * 1024
_MOST_HEADERS = 128
_MOST_PIPELINED = 32
"""Requests that wait on one connection for the answer to the one before: one read may carry thousands."""

Line = OrderedDict["Connection", float]
"""Connections and since when, in seconds of a clock, longest first."""


class Incoming(HttpToolsProtocol):
    """Uvicorn's protocol, as far as it receives; ``service.connections.Connection`` is the rest."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.line: Line | None = None
        self._connections = connections
        self._extensions: Any = {}  # uvicorn's type allows dictionaries only
        self._part: Literal["head", "body"] | None = None  # of the message that has begun and not ended
        self._read = 0  # bytes of the last read
        self._fed = 0  # bytes since the parser made something of them
        self._body_bytes = 0  # of the message whose body is being received
        self._holds = False  # they are counted in the receipt
        self._refusal: tuple[ServiceError, str] | None = None
        self._feeding = False
        self._offered = False  # another protocol, by the message whose headers ended last
        self._due: RequestResponseCycle | None = None  # to be begun once all that was read is parsed

    def refuse(self, error: ServiceError, cause: str) -> None:
        """Close, with an answer where that is possible."""
        raise NotImplementedError

    def _begin(self, cycle: RequestResponseCycle) -> None:
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        self._read = len(data)
        self._fed += self._read
        self._feeding = True
        self._unset_keepalive_if_required()
        self._feed(data)
        self._feeding = False
        due, self._due = self._due, None
        if due is not None:
            self._begin(due)
        if self._fed > _MOST_HEAD_BYTES:
            self.refuse(_too_large(), "headers_too_large")
        elif self._part is not None:
            if self.line is self._connections.idle or self._part == "body":
                self._settle()
            if self._part == "body":
                self._hold()

    def _feed(self, data: bytes) -> None:
        try:
            feed(self, data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        if self._offered:  # the same message again
            self.url = b""
            self.headers.clear()
            return
        self._part, self._fed = "head", 0
        super().on_message_begin()
        scope: Any = self.scope  # uvicorn's type has no keys of others
        scope["extensions"] = self._extensions
        scope[BEGAN] = self._connections.clock()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers come here too. Not by way of uvicorn's own: it is called for each header of each request."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > _MOST_HEADERS:
            self._stop(_too_large(), "headers_too_large")

    def on_headers_complete(self) -> None:
        if max(self._fed, self._read) > _MOST_HEAD_BYTES < len(self.url) + sum(len(n) + len(v) for n, v in self.headers):
            self._stop(_too_large(), "headers_too_large")
        self._offered = not self._offered and self.parser.should_upgrade()
        if self._offered:
            if self.parser.get_method() == b"CONNECT":
                self._stop(MalformedRequestError("CONNECT is for proxies; send the request itself"), "malformed")
            return
        self._part, self._fed = "body", 0
        self._connections.go_on(self)  # type: ignore[arg-type]  # each of them is a Connection
        super().on_headers_complete()
        if len(self.pipeline) > _MOST_PIPELINED:
            self._stop(MalformedRequestError("too many requests that do not wait for their answers"), "pipeline")

    def on_body(self, body: bytes) -> None:
        """Not uvicorn's own, which wakes the request's task for every byte that comes alone."""
        self._fed = 0
        cycle = self.cycle
        if not cycle.response_complete:
            self._body_bytes += len(body)
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
                cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._part, self._fed = None, 0
        self._let_go()
        super().on_message_complete()
        if self.line is self._connections.bodies:
            self._connections.go_on(self)  # type: ignore[arg-type]  # as above
        elif self.line is self._connections.receiving:  # the rest of a body that was answered before its end
            self._settle()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _answered(self) -> None:
        """The rest of a body that is answered is thrown away as it comes; that of another message, behind it, is not."""
        if self._holds and self.cycle.response_complete:
            self._let_go()

    def _hold(self) -> None:
        """Count what there is of a body that has not ended, unless it is thrown away."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._holds = True
            self._connections.receipt.hold(self, self._body_bytes)

    def _let_go(self) -> None:
        self._body_bytes = 0
        if self._holds:
            self._holds = False
            self._connections.receipt.release(self)

    def _stop(self, error: ServiceError, cause: str) -> NoReturn:
        """Called by the parser, which ends with an error of its own on any exception."""
        self._refusal = error, cause
        raise error


def _too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"more than {_MOST_HEADERS} headers, or {_MOST_HEAD_BYTES} bytes of them; send less")
