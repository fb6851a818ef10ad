"""POST /search and /search/batch."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.call import call_of, deadline_of, watched
from service.api.problems import responses
from service.api.render import batch_answer, json_response, search_answer
from service.api.route import json_route
from service.api.schemas import BatchBody, BatchResponse, SearchBody, SearchResponse, check_batch, check_text, check_window
from service.parts import Parts

WORK_ERRORS = (408, 413, 422, 429, 503, 504)
"""What every route that works on a query may answer."""

_TEXT = {"schema": {"type": "string"}, "required": False}
_MS = {"schema": {"type": "number", "exclusiveMinimum": 0}, "required": False}
WORK_HEADERS: dict[str, Any] = {
    "parameters": [
        {"name": "Request-Timeout-Ms", "in": "header", "description": "Budget in milliseconds; the least of all wins.", **_MS},
        {"name": "x-envoy-expected-rq-timeout-ms", "in": "header", "description": "The same, as set by Envoy.", **_MS},
        {"name": "X-Request-ID", "in": "header", "description": "Echoed; made up where it is missing or malformed.", **_TEXT},
        {"name": "traceparent", "in": "header", "description": "W3C Trace Context; echoed.", **_TEXT},
    ]
}


class SearchRoutes:
    """Text in, documents out."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._pipeline = parts.pipeline

    def mount(self, router: APIRouter) -> None:
        settings = self._settings
        router.add_api_route(
            "/search",
            self.search,
            methods=["POST"],
            response_model=SearchResponse,
            responses=responses(*WORK_ERRORS),
            openapi_extra=WORK_HEADERS,
            route_class_override=json_route(settings.max_body_bytes, settings.max_timeout_ms),
        )
        router.add_api_route(
            "/search/batch",
            self.search_batch,
            methods=["POST"],
            response_model=BatchResponse,
            responses=responses(*WORK_ERRORS),
            openapi_extra=WORK_HEADERS,
            route_class_override=json_route(settings.max_batch_body_bytes, settings.max_timeout_ms),
        )

    async def search(self, body: SearchBody, request: Request) -> Response:
        """Find the documents nearest to a text."""
        check_text(body.query, self._settings, "query")
        check_window(body, self._settings)
        call, deadline = call_of(request), deadline_of(request, self._settings, [body.timeout_ms])
        with watched(request) as caller:
            return json_response(
                await self._pipeline.search(body.search(), deadline, caller, lambda answer: search_answer(answer, call))
            )

    async def search_batch(self, body: BatchBody, request: Request) -> Response:
        """Answer a list of searches, in order, from one snapshot and within one deadline: the least of theirs."""
        check_batch(len(body), self._settings, "body")
        for i, item in enumerate(body):
            check_text(item.query, self._settings, f"{i}.query")
            check_window(item, self._settings, f"{i}.")
        call, deadline = call_of(request), deadline_of(request, self._settings, [item.timeout_ms for item in body])
        searches = [item.search() for item in body]
        with watched(request) as caller:
            return json_response(
                await self._pipeline.search_batch(searches, deadline, caller, lambda answer: batch_answer(answer, call))
            )
