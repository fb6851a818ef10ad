"""What surrounds every request, as pure ASGI middleware: ids, clock, counters, headers, access log, and the last resort."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.call import Call, open_call
from service.api.problems import problem
from service.errors import CallerGoneError, DrainingError, ServiceError
from service.parts import Parts

UNMATCHED = "unmatched"
"""Route label of requests that no route takes: paths of strangers make no series."""

_log = structlog.get_logger("service.access")


class Envelope:
    """Wraps the application; what is not HTTP passes through."""

    def __init__(self, app: ASGIApp, parts: Parts, random: Callable[[], float]) -> None:
        self._app = app
        self._parts = parts
        self._random = random

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = open_call(scope, self._parts.clock)
        outgoing = _Outgoing(send, call, close=self._parts.limiter.draining)
        try:
            await self._app(scope, receive, outgoing)
        except asyncio.CancelledError:
            if outgoing.status or not self._parts.limiter.draining:
                raise
            await problem(_cut_off(), call, scope["path"])(scope, receive, outgoing)
        except Exception:
            self._parts.metrics.errors.inc()
            _log.exception("unhandled_error", route=_route(scope), request_id=call.request_id)
            if outgoing.status:
                raise  # half an answer is out: closing the connection is all that is left
            await problem(_internal(call), call, scope["path"])(scope, receive, outgoing)
        finally:
            self._account(scope, call, outgoing.status or CallerGoneError.status)

    def _account(self, scope: Scope, call: Call, status: int) -> None:
        route, seconds = _route(scope), self._parts.clock() - call.started
        metrics = self._parts.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if call.walk is not None:
            self._parts.pipeline.account(call.walk)
        if self._random() < self._parts.settings.access_log:
            _log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 3),
                request_id=call.request_id,
                trace_parent=call.trace_parent,
            )


class _Outgoing:
    """Sends on, with the headers that every answer carries.

    Attributes:
        status: of the answer, 0 until it has begun.
    """

    __slots__ = ("_call", "_close", "_send", "status")

    def __init__(self, send: Send, call: Call, *, close: bool) -> None:
        self._send = send
        self._call = call
        self._close = close
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"connection", b"close")] if self._close else []
            message["headers"] = [*message["headers"], *self._call.headers(), *extra]
        await self._send(message)


def _cut_off() -> ServiceError:
    return DrainingError("this instance shut down before the request was done; send it to another one")


def _internal(call: Call) -> ServiceError:
    return ServiceError(f"the service failed; its log has the reason under request_id {call.request_id}")


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED)
