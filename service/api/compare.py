"""POST /snapshots/{id}/search: operators search an open snapshot approximately and exactly, off the hot path."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.admin_schemas import CompareBody, CompareResponse
from service.api.operators import Door
from service.api.problems import responses
from service.api.render import json_response, to_bytes
from service.api.route import json_route
from service.api.schemas import check_text
from service.errors import FieldError, InvalidRequestError
from service.parts import Parts
from service.stages import Search

_BEARER: dict[str, Any] = {"security": [{"bearer": []}]}


class CompareRoutes:
    """For people who ask why a hit is there, and what another snapshot or effort would give."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._comparer = parts.comparer
        self._door = Door(parts.tokens)

    def mount(self, router: APIRouter) -> None:
        settings = self._settings
        router.add_api_route(
            "/snapshots/{snapshot_id}/search",
            self.compare,
            methods=["POST"],
            response_model=CompareResponse,
            responses=responses(401, 404, 408, 413, 415, 422, 503),
            openapi_extra=_BEARER,
            route_class_override=json_route(settings.max_body_bytes, settings.max_timeout_ms, self._door.audited),
        )

    async def compare(self, request: Request, snapshot_id: str, body: CompareBody) -> Response:  # noqa: ARG002 - json_route's
        """Search an open snapshot approximately, at any effort, and exactly; one such search runs at a time, behind requests."""
        check_text(body.query, self._settings, "query")
        if body.k > self._settings.max_k:
            raise InvalidRequestError(FieldError("k", f"{body.k}; at most {self._settings.max_k} (max_k)"))
        search = Search(body.query, body.k, filter=body.filter)
        return json_response(to_bytes(asdict(await self._comparer.compare(snapshot_id, search, body.effort))))
