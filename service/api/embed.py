"""POST /embed and /v1/embeddings: the query tower alone."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request

from service.admission import Lane
from service.api.call import call_of
from service.api.render import embed_answer, openai_answer
from service.api.schemas import EmbedBody, EmbedResponse, OpenAIEmbedBody, OpenAIEmbedResponse, check_batch, check_text
from service.api.turnstile import charge
from service.api.work import WorkRoutes


class EmbedRoutes(WorkRoutes):
    """Text in, vectors out."""

    def mount(self, router: APIRouter) -> None:
        most = self._settings.max_batch_body_bytes
        self._add(router, "/embed", self.embed, Lane.EMBED, most, EmbedResponse)
        self._add(router, "/v1/embeddings", self.embeddings, Lane.EMBED, most, OpenAIEmbedResponse, openai=True)

    async def embed(self, body: EmbedBody, request: Request) -> bytes:
        """Encode queries as /search does."""
        texts = body.texts()
        check_batch(len(texts), self._settings, "queries")
        for i, text in enumerate(texts):
            check_text(text, self._settings, f"queries.{i}" if body.query is None else "query")
        charge(request.scope, len(texts))
        call, walk = call_of(request), self._walk(request, body.timeout_ms)
        call.asked = texts
        return await self._pipeline.embed(texts, walk, partial(embed_answer, call))

    async def embeddings(self, body: OpenAIEmbedBody, request: Request) -> bytes:
        """Encode queries, in the shape of OpenAI's embeddings API."""
        check_batch(len(body.input), self._settings, "input")
        for i, text in enumerate(body.input):
            check_text(text, self._settings, f"input.{i}")
        charge(request.scope, len(body.input))
        call, walk = call_of(request), self._walk(request)
        call.asked = body.input
        answer = partial(openai_answer, call, as_base64=body.encoding_format == "base64")
        return await self._pipeline.embed(body.input, walk, answer, body.dimensions)
