"""POST /search and /search/batch."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request

from service.admission import Lane
from service.api.call import call_of
from service.api.render import batch_answer, search_answer
from service.api.schemas import (
    BatchBody,
    BatchResponse,
    SearchBody,
    SearchResponse,
    check_batch,
    check_hits,
    check_text,
    check_window,
)
from service.api.turnstile import charge
from service.api.work import WorkRoutes


class SearchRoutes(WorkRoutes):
    """Text in, documents out."""

    def mount(self, router: APIRouter) -> None:
        settings = self._settings
        self._add(router, "/search", self.search, Lane.SEARCH, settings.max_body_bytes, SearchResponse)
        self._add(router, "/search/batch", self.search_batch, Lane.BATCH, settings.max_batch_body_bytes, BatchResponse)

    async def search(self, body: SearchBody, request: Request) -> bytes:
        """Find the documents nearest to a text."""
        check_text(body.query, self._settings, "query")
        check_window(body, self._settings)
        call, search, walk = call_of(request), body.search(), self._walk(request, body.timeout_ms)
        call.asked = (search,)
        return await self._pipeline.search(search, walk, partial(search_answer, call))

    async def search_batch(self, body: BatchBody, request: Request) -> bytes:
        """Answer a list of searches, in order, from one snapshot and within one deadline: the least of theirs."""
        check_batch(len(body), self._settings, "body")
        for i, item in enumerate(body):
            check_text(item.query, self._settings, f"{i}.query")
            check_window(item, self._settings, f"{i}.")
        check_hits(body, self._settings, "body")
        charge(request.scope, len(body))
        call, searches = call_of(request), [item.search() for item in body]
        call.asked = searches
        walk = self._walk(request, *(item.timeout_ms for item in body))
        return await self._pipeline.search_batch(searches, walk, partial(batch_answer, call))
