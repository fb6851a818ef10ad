"""What surrounds every request, as pure ASGI: ids, clock, counters, headers, access log, and the last resort."""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.api.access import AccessLog, Reason, record_of
from service.api.call import Call, Reply, open_call, opened_call, sent_at_once
from service.api.problems import problem, reply_of
from service.api.turnstile import caller_name
from service.api.work import WorkRoute
from service.errors import CallerGoneError, DrainingError, ServiceError, TooSlowError
from service.headers import SAFE, missing
from service.metrics import SERVED
from service.parts import Parts
from service.record import UNMATCHED

_log = structlog.get_logger("service.access")


class Ledger:
    """What every answer leaves behind: counters, a line in the access log, spans, and a line for each fault of ours."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._access = AccessLog(parts.settings) if parts.settings.access_log else None
        self._tracer = parts.tracer

    def open(self, scope: Scope, *, works: bool) -> Call:
        """A request has come; ``works``: to a route that works on queries."""
        call = open_call(scope, self._parts.clock)
        if self._tracer is not None:
            call.span = self._tracer.begin(call.trace, works=works)
            call.trace_parent = call.trace_parent if call.span is None else call.span.traceparent
        return call

    def seconds(self, call: Call) -> float:
        """How long a request has taken; its answer is handed to the transport, and what comes after is no part of it."""
        if call.walk is not None:
            call.walk.stop()
        return self._parts.clock() - call.started

    def account(self, route: str, scope: Scope, call: Call, status: int, seconds: float) -> None:
        """The answer is out, or there will be none; ``seconds`` after the request began."""
        metrics = self._parts.metrics
        recorded = None if call.trace is None and call.span is None else call.recorded_trace_id
        metrics.answered(route, status, seconds, recorded)
        too_slow = call.code == TooSlowError.code
        if call.walk is not None:
            budget_ms = call.walk.deadline.budget_ms
            metrics.timed(route, status, seconds, budget_ms)
            if too_slow or status in SERVED:
                metrics.budgets.answered(route, budget_ms, late=status != HTTPStatus.OK)
            self._parts.pipeline.account(call.walk, recorded)
        if too_slow:
            metrics.sent_elsewhere(route)
        reason = None if self._access is None else self._access.reason(route, call, status, seconds)
        if reason is not None or call.span is not None:
            self._tell(route, scope, call, status, seconds, reason)

    def fault(self, route: str, call: Call) -> ServiceError:
        """Log and count the exception that is being handled; what its caller is told."""
        self._parts.metrics.errors.inc()
        _log.exception("unhandled_error", route=route, request_id=call.request_id, trace_id=call.trace_id)
        return ServiceError(f"the service failed; its log has the reason under request_id {call.request_id}")

    def _tell(self, route: str, scope: Scope, call: Call, status: int, seconds: float, reason: Reason | None) -> None:
        record = record_of(route, scope["method"], call, status, seconds, caller_name(scope))
        if self._access is not None and reason is not None:
            self._access.write(record, reason, call.asked)
        if self._tracer is not None and record.span is not None:
            self._tracer.take(record, record.span)


class Envelope:
    """Wraps the application; what is not HTTP passes through."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts
        self._ledger = Ledger(parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self._ledger.open(scope, works=False)
        outgoing = _Outgoing(send, call, close=self._parts.limiter.draining)
        try:
            with bound_contextvars(request_id=call.request_id, trace_id=call.trace_id):  # whatever is logged meanwhile has them
                await self._app(scope, receive, outgoing)
        except asyncio.CancelledError:
            if outgoing.status or not self._parts.limiter.draining:
                raise
            await problem(_cut_off(), call, scope["path"])(scope, receive, outgoing)
        except Exception:
            error = self._ledger.fault(_route(scope), call)
            if outgoing.status:
                raise  # half an answer is out: closing the connection is all that is left
            await problem(error, call, scope["path"])(scope, receive, outgoing)
        finally:
            status = outgoing.status or CallerGoneError.status
            self._ledger.account(_route(scope), scope, call, status, self._ledger.seconds(call))


class Direct:
    """Around one route that gives its answer whole: nothing is sent before all of it is known, and then it is sent at once."""

    def __init__(self, route: WorkRoute, parts: Parts) -> None:
        self._route = route
        self._path = route.route.path
        self._parts = parts
        self._ledger = Ledger(parts)

    def turns_away(self, scope: Scope) -> bool:
        """Whether there is no point in receiving more of a request, which then has its answer: without a task, most of what a
        refusal costs under overload, or to strangers. Only for connections that send at once (``service.connections``).
        """
        call = self._ledger.open(scope, works=True)
        try:
            self._route.knock(scope, call)
        except ServiceError as error:
            reply = reply_of(error, call, self._path)
            sent_at_once(scope, reply.status, self._headers(reply, call), reply.body)
            self._ledger.account(self._path, scope, call, reply.status, self._ledger.seconds(call))
            return True
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = opened_call(scope) or self._ledger.open(scope, works=True)
        status, sent = CallerGoneError.status, False
        try:
            reply = await self._reply(scope, receive, call)
            status = reply.status
            headers = self._headers(reply, call)
            sent = sent_at_once(scope, status, headers, reply.body)
            if not sent:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": reply.body})
        finally:
            books = partial(self._ledger.account, self._path, scope, call, status, self._ledger.seconds(call))
            if sent:  # what was written goes out at the end of this turn of the event loop: the books can wait for the next
                asyncio.get_running_loop().call_soon(books)
            else:
                books()

    async def _reply(self, scope: Scope, receive: Receive, call: Call) -> Reply:
        try:
            return await self._route.answer(scope, receive, call)
        except ServiceError as known:
            error = known
        except asyncio.CancelledError:
            if not self._parts.limiter.draining:
                raise
            error = _cut_off()
        except Exception:  # noqa: BLE001 - logged and counted
            error = self._ledger.fault(self._path, call)
        return reply_of(error, call, self._path)

    def _headers(self, reply: Reply, call: Call) -> list[tuple[bytes, bytes]]:
        headers = [*reply.headers, *SAFE, *call.headers()]
        if self._parts.limiter.draining:
            headers.append((b"connection", b"close"))
        return headers


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
            headers = message["headers"]
            message["headers"] = [*headers, *missing(headers), *self._call.headers(), *extra]
        await self._send(message)


def _cut_off() -> ServiceError:
    return DrainingError("this instance shut down before the request was done; send it to another one")


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED)
