"""What is known of one HTTP request, and what is asked of it besides its body: ids, budget, whether the caller still waits."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive, Scope

from service.deadline import Clock, Deadline, budget_ms
from service.errors import FieldError, InvalidRequestError
from service.headers import SYNTHETIC
from service.pipeline import Answer, Embedded
from service.scopes import ARRIVED, BEGAN, EXTENSION, REPLY
from service.settings import Settings
from service.stages import Search
from service.traceparent import Span, Traceparent, parse_traceparent
from service.walk import Caller, Walk

ELSEWHERE_HEADER = "X-Retry-Elsewhere"
TIMEOUT_HEADERS = ("Request-Timeout-Ms", "x-envoy-expected-rq-timeout-ms")

_KEY = "scalingnote.call"
_ids = random.Random()  # noqa: S311 - ids of requests are no secrets, and the system's randomness costs a call of the kernel
_TIMEOUTS = {name.lower().encode(): name for name in TIMEOUT_HEADERS}
_ELSEWHERE = ELSEWHERE_HEADER.lower().encode()
_SYNTHETIC = SYNTHETIC.lower().encode()
_READ = {b"x-request-id", b"traceparent", b"content-length", b"content-encoding", _ELSEWHERE, _SYNTHETIC, *_TIMEOUTS}
_MOST_JOINED = 16
"""Budgets that a header may have: proxies join what came twice. Of more, the rest is one that is malformed: a header has room for
ten thousands, which are looked at before anything else of a request."""
_MOST_DIGITS = 20
_MILLISECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Call:
    """One HTTP request.

    Attributes:
        request_id: the caller's X-Request-ID where it is well-formed, else one made here.
        trace: what the caller's traceparent says, where it is well-formed.
        trace_parent: the same as it came, or that of ``span``; the answer carries it.
        span: where this service traces the request.
        started: when the request's first byte was seen, in seconds of ``clock``.
        declared_bytes: length of the body as announced; 0 where it is not.
        coding: of the body, as its Content-Encoding says.
        elsewhere: a balancer says that it would ask another replica after a 503.
        synthetic: no user asks.
        incomplete_seconds: since then, until the whole request was there and it was its turn on its connection.
        timeouts: names and raw values of the headers that name a budget; one may come twice, or have several.
        timings_ms: by stage, once known; sent as Server-Timing.
        caller: whoever waits for the answer, of a request that is worked on.
        walk: of such a request, once its budget is known.
        asked: its searches, or its texts, once they are known to make sense.
        answered: what it is answered with, once that is known.
        code: of the error that it is answered with, if it is.
        reason: what its caller is not told of that error.
    """

    __slots__ = (
        "answered",
        "asked",
        "caller",
        "clock",
        "code",
        "coding",
        "declared_bytes",
        "elsewhere",
        "incomplete_seconds",
        "reason",
        "request_id",
        "span",
        "started",
        "synthetic",
        "timeouts",
        "timings_ms",
        "trace",
        "trace_parent",
        "walk",
    )

    def __init__(self, scope: Scope, clock: Clock) -> None:
        self.clock = clock
        began: float | None = scope.get(BEGAN)  # another server does not say
        now = clock()
        self.started = now if began is None else began
        self.incomplete_seconds = now - self.started
        self.declared_bytes = 0
        self.coding = "identity"
        self.elsewhere = self.synthetic = False
        self.timeouts: list[tuple[str, str]] = []
        self.timings_ms: Mapping[str, float] | None = None
        self.caller = Caller()
        self.walk: Walk | None = None
        self.asked: Sequence[Search] | Sequence[str] = ()
        self.answered: Answer | Embedded | None = None
        self.code: str | None = None
        self.reason: str | None = None
        self.span: Span | None = None
        self.trace: Traceparent | None = None
        self.trace_parent: str | None = None
        request_id = parent = None
        for name, value in scope["headers"]:  # once over all of them: each look-up by name would be
            if name not in _READ:
                continue
            text = value.decode("latin-1")
            if name == b"x-request-id":
                request_id = _matching(_REQUEST_ID, text)
            elif name == b"traceparent":
                parent = text if parent is None else ""  # two of them say nothing
            elif name == b"content-length":
                self.declared_bytes = _length(text)
            elif name == b"content-encoding":
                self.coding = text.strip().lower() or "identity"
            elif name == _ELSEWHERE:
                self.elsewhere = True
            elif name == _SYNTHETIC:
                self.synthetic = True
            else:
                self.timeouts.extend((_TIMEOUTS[name], each) for each in text.split(",", _MOST_JOINED))
        if parent:
            self.trace = parse_traceparent(parent)
            self.trace_parent = None if self.trace is None else parent.strip()
        self.request_id = request_id or f"{_ids.getrandbits(128):032x}"

    @property
    def trace_id(self) -> str | None:
        """Of the caller's trace, or of the one that was begun here, 32 hexadecimal digits; None where there is none."""
        if self.span is not None:
            return self.span.trace_id
        return None if self.trace is None else self.trace.trace_id

    @property
    def recorded_trace_id(self) -> str | None:
        """The same, where that trace is recorded, so that somebody can look it up."""
        if self.span is not None:
            return self.span.trace_id
        return None if self.trace is None or not self.trace.sampled else self.trace.trace_id

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries."""
        headers = [(b"x-request-id", self.request_id.encode())]
        if self.trace_parent is not None:
            headers.append((b"traceparent", self.trace_parent.encode()))
        if self.timings_ms is not None:
            headers.append((b"server-timing", ", ".join([f"{k};dur={v:g}" for k, v in self.timings_ms.items()]).encode()))
        return headers


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


def open_call(scope: Scope, clock: Clock) -> Call:
    """Stamp an ASGI scope with what is known of its request."""
    call = Call(scope, clock)
    scope[_KEY] = call
    return call


def opened_call(scope: Scope) -> Call | None:
    """What was stamped on a scope, if anything was."""
    call: Call | None = scope.get(_KEY)
    return call


def call_of(request: Request) -> Call:
    """What was stamped on a request's scope."""
    call: Call = request.scope[_KEY]
    return call


def deadline_of(call: Call, settings: Settings, timeouts_ms: Iterable[float | None]) -> Deadline:
    """The least of the body's timeouts and the headers', within the server's, counted from its first byte.

    Raises:
        InvalidRequestError: a header is not a positive number of milliseconds.
    """
    asked = [*timeouts_ms, *(_header_ms(name, raw) for name, raw in call.timeouts)]
    return Deadline.after(budget_ms(asked, settings.default_timeout_ms, settings.max_timeout_ms), call.started, call.clock)


def most_ms(call: Call, settings: Settings) -> float:
    """The longest budget that a request can have, whatever its body says; a malformed header allows as much as none."""
    named = (_ms(raw) for _, raw in call.timeouts)
    return min([settings.max_timeout_ms, *(ms for ms in named if ms is not None)])


@contextmanager
def watched(receive: Receive) -> Iterator[Caller]:
    """A caller whose ``gone`` is set when the connection is closed; the request's body must have been read.

    For servers that are not ours: ours says so in the scope, where ``caller_of`` finds it.
    """
    caller = Caller()
    watch = asyncio.create_task(_watch(receive, caller))
    try:
        yield caller
    finally:
        watch.cancel()


def caller_of(scope: Scope) -> Caller | None:
    """The caller as our own server knows it."""
    caller: Caller | None = scope.get("extensions", {}).get(EXTENSION)
    return caller


def arrived(scope: Scope) -> bool:
    """Whether our own server has all of the request's body already."""
    known: Callable[[], bool] | None = scope.get("extensions", {}).get(ARRIVED)
    return known is not None and known()


def sent_at_once(scope: Scope, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
    """Whether our own server has sent a whole answer."""
    reply: Callable[[int, Sequence[tuple[bytes, bytes]], bytes], bool] | None = scope.get("extensions", {}).get(REPLY)
    return reply is not None and reply(status, headers, body)


async def _watch(receive: Receive, caller: Caller) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    caller.gone = True


def _header_ms(name: str, raw: str) -> float:
    ms = _ms(raw)
    if ms is None:
        raise InvalidRequestError(FieldError(f"header.{name}", "not a positive number of milliseconds"))
    return ms


def _ms(raw: str) -> float | None:
    return float(raw) if _MILLISECONDS.fullmatch(raw.strip()) and float(raw) > 0 else None


def _length(text: str) -> int:
    """What a Content-Length says, however many zeros it begins with; 0 where it says nothing. Python reads no 4,301 digits."""
    digits = text.lstrip("0")
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else 0


def _matching(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
