"""POST /embed and /v1/embeddings: the query tower alone."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.call import call_of, deadline_of, watched
from service.api.problems import responses
from service.api.render import embed_answer, json_response, openai_answer
from service.api.route import json_route
from service.api.schemas import EmbedBody, EmbedResponse, OpenAIEmbedBody, OpenAIEmbedResponse, check_batch, check_text
from service.api.search import WORK_ERRORS, WORK_HEADERS
from service.parts import Parts


class EmbedRoutes:
    """Text in, vectors out."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._pipeline = parts.pipeline

    def mount(self, router: APIRouter) -> None:
        route = json_route(self._settings.max_batch_body_bytes, self._settings.max_timeout_ms)
        router.add_api_route(
            "/embed",
            self.embed,
            methods=["POST"],
            response_model=EmbedResponse,
            responses=responses(*WORK_ERRORS),
            openapi_extra=WORK_HEADERS,
            route_class_override=route,
        )
        router.add_api_route(
            "/v1/embeddings",
            self.embeddings,
            methods=["POST"],
            response_model=OpenAIEmbedResponse,
            responses=responses(400, *(status for status in WORK_ERRORS if status != 422), openai=True),
            openapi_extra=WORK_HEADERS,
            route_class_override=route,
        )

    async def embed(self, body: EmbedBody, request: Request) -> Response:
        """Encode queries as /search does."""
        texts = body.texts()
        check_batch(len(texts), self._settings, "queries")
        for i, text in enumerate(texts):
            check_text(text, self._settings, f"queries.{i}" if body.query is None else "query")
        call, deadline = call_of(request), deadline_of(request, self._settings, [body.timeout_ms])
        with watched(request) as caller:
            return json_response(
                await self._pipeline.embed(texts, deadline, caller, lambda embedded: embed_answer(embedded, call))
            )

    async def embeddings(self, body: OpenAIEmbedBody, request: Request) -> Response:
        """Encode queries, in the shape of OpenAI's embeddings API."""
        check_batch(len(body.input), self._settings, "input")
        for i, text in enumerate(body.input):
            check_text(text, self._settings, f"input.{i}")
        call, deadline = call_of(request), deadline_of(request, self._settings, [])
        as_base64 = body.encoding_format == "base64"
        with watched(request) as caller:
            return json_response(
                await self._pipeline.embed(
                    body.input,
                    deadline,
                    caller,
                    lambda embedded: openai_answer(embedded, call, as_base64=as_base64),
                    body.dimensions,
                )
            )
