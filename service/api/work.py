"""Routes that work on queries.

They are declared as FastAPI routes are, for the OpenAPI document and for the methods that they do not take, but a POST to
one of them goes straight here: router, exit stacks and error layers cost as much as tokenizing does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, get_type_hints

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.types import Receive, Scope

from service.admission import Lane
from service.api.call import Call, Reply, arrived, call_of, caller_of, deadline_of, most_ms, watched
from service.api.describe import NEEDS_KEY
from service.api.problems import responses
from service.api.route import check_coding, parse, read
from service.api.turnstile import Turnstile
from service.deadline import Deadline
from service.errors import BodyTimeoutError, DeadlineExceededError, OverloadedError
from service.keys.file import Permission
from service.long_bodies import LONG_BYTES, check_brackets, most_brackets
from service.parts import Parts
from service.walk import Walk

ERRORS = (401, 403, 408, 413, 415, 422, 429, 503, 504)
"""What every one of these routes may answer."""

_TEXT = {"schema": {"type": "string"}, "required": False}
_MS = {"schema": {"type": "number", "exclusiveMinimum": 0}, "required": False}
HEADERS: dict[str, Any] = {
    "parameters": [
        {"name": "Request-Timeout-Ms", "in": "header", "description": "Budget in milliseconds; the least of all wins.", **_MS},
        {"name": "x-envoy-expected-rq-timeout-ms", "in": "header", "description": "The same, as set by Envoy.", **_MS},
        {"name": "X-Request-ID", "in": "header", "description": "Echoed; made up where it is missing or malformed.", **_TEXT},
        {
            "name": "traceparent",
            "in": "header",
            "description": "W3C Trace Context; comes back.",
            **_TEXT,
        },
    ]
}
_ASKED = "scalingnote.asked"
_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

Endpoint = Callable[..., Awaitable[bytes]]
"""Takes ``body``, of a type that pydantic knows, and ``request``; gives the answer's JSON."""


class WorkRoute:
    """One route; ``route`` is what it was declared as."""

    def __init__(self, route: APIRoute, endpoint: Endpoint, parts: Parts, lane: Lane, max_bytes: int) -> None:
        self.route = route
        self._endpoint = endpoint
        self._adapter = TypeAdapter[Any](get_type_hints(endpoint, include_extras=True)["body"])
        self._pipeline = parts.pipeline
        self._metrics = parts.metrics
        self._lane = lane
        self._max_bytes = max_bytes
        self._most_brackets = most_brackets(1 if lane is Lane.SEARCH else parts.settings.max_batch)
        self._long_bodies = parts.long_bodies
        self._settings = parts.settings
        self._turnstile = None if parts.keys is None else Turnstile(parts.keys)
        self._permission: Permission = "embed" if lane is Lane.EMBED else "search"

    def knock(self, scope: Scope, call: Call) -> None:
        """Whether there is any point in receiving more of a request, asked once; raises as the pipeline and the turnstile do."""
        if _ASKED in scope:
            return
        self._pipeline.knock(self._lane, most_ms(call, self._settings))
        if self._turnstile is not None:
            self._turnstile.admit(scope, self._permission)
        check_coding(call)
        scope[_ASKED] = True

    async def answer(self, scope: Scope, receive: Receive, call: Call) -> Reply:
        """Read the body, work, and render; raises what the pipeline raises, and what is wrong with the body."""
        self.knock(scope, call)  # where the server is not ours, or could not have answered at once
        raw = await self._read(scope, receive, call)
        request = Request(scope, receive)
        known = caller_of(scope)
        if known is not None:
            call.caller = known
            content = await self._work(raw, request, call)
        else:
            with watched(receive) as call.caller:
                content = await self._work(raw, request, call)
        return Reply(200, [*_JSON, (b"content-length", b"%d" % len(content))], content)

    async def _work(self, raw: bytes, request: Request, call: Call) -> bytes:
        body = self._parse(raw) if len(raw) <= LONG_BYTES else await self._parse_long(raw, call)
        return await self._endpoint(body=body, request=request)

    def _parse(self, raw: bytes) -> Any:
        check_brackets(raw, self._most_brackets)
        return parse(self._adapter, raw)

    async def _parse_long(self, raw: bytes, call: Call) -> Any:
        deadline = Deadline.after(most_ms(call, self._settings), call.started, call.clock)
        check = partial(self._check_worth, call, deadline)
        parsing = asyncio.ensure_future(self._long_bodies.parse(partial(self._parse, raw), check))
        try:
            while not parsing.done():  # others before it may have more time, and take it
                await asyncio.wait([parsing], timeout=math.ceil(max(0.0, deadline.remaining_ms())) / 1000)
                if not parsing.done():
                    check()
            return parsing.result()
        except OverloadedError as error:
            self._metrics.refused(error)
            raise
        finally:
            parsing.cancel()

    def _check_worth(self, call: Call, deadline: Deadline) -> None:
        """Whether anybody waits still, within the longest budget that the body can name; raises as a stage of the work does."""
        walk = Walk(deadline, call.caller, call.elsewhere)
        reason = walk.hopeless("tokenize")
        if reason is not None:
            call.walk = walk
            self._metrics.dropped_before(reason)
            raise reason

    async def _read(self, scope: Scope, receive: Receive, call: Call) -> bytes:
        """The body, unless a budget that a header names is spent before its end."""
        settings = self._settings
        if arrived(scope):
            return await read(scope, receive, call.declared_bytes, self._max_bytes, settings.max_timeout_ms)
        budget = most_ms(call, settings)
        waited_ms = (call.clock() - call.started) * 1000
        try:
            return await read(scope, receive, call.declared_bytes, self._max_bytes, budget, waited_ms)
        except BodyTimeoutError as error:
            if budget == settings.max_timeout_ms:
                raise
            raise self._late(call, budget) from error
        finally:
            call.incomplete_seconds = call.clock() - call.started

    def _late(self, call: Call, budget_ms: float) -> DeadlineExceededError:
        walk = call.walk = Walk(deadline_of(call, self._settings, ()), call.caller, call.elsewhere)
        message = f"the body was not complete within the budget of {budget_ms:g} ms; send it faster, or allow more"
        late = DeadlineExceededError(message, "tokenize", walk.timings_ms(under_way=True))
        self._metrics.dropped_before(late)
        return late


class WorkDeclaration(APIRoute):
    """What FastAPI knows of such a route; ``work`` is what runs."""

    work: WorkRoute


class WorkRoutes:
    """Declares such routes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._pipeline = parts.pipeline

    def _walk(self, request: Request, *timeouts_ms: float | None) -> Walk:
        """The walk of a request with these budgets in its body."""
        call = call_of(request)
        call.walk = Walk(deadline_of(call, self._settings, timeouts_ms), call.caller, call.elsewhere, call.synthetic)
        return call.walk

    def _add(
        self, router: APIRouter, path: str, endpoint: Endpoint, lane: Lane, max_bytes: int, model: Any, *, openai: bool = False
    ) -> None:
        """Declare a route that answers with ``model``."""
        parts = self._parts

        class Declared(WorkDeclaration):
            def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
                super().__init__(path, endpoint, **options)
                self.work = WorkRoute(self, endpoint, parts, lane, max_bytes)

        statuses = (400, *(status for status in ERRORS if status != 422)) if openai else ERRORS
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=model,
            responses=responses(*statuses, openai=openai),
            openapi_extra={**HEADERS, "security": NEEDS_KEY},
            route_class_override=Declared,
        )
