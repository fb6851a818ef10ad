"""GET /snapshots, POST /snapshots/{id}/activate and /snapshots/rollback: operators, with a bearer token."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.call import call_of
from service.api.problems import responses
from service.api.render import json_response, to_bytes
from service.api.route import add_read_route, json_route
from service.api.schemas import ActivateBody, SnapshotsResponse, StatusModel
from service.api.status import LOADING, status
from service.errors import (
    AdminDisabledError,
    ConflictError,
    RegistryFaultError,
    SwapRunningError,
    UnauthorizedError,
    UnknownResourceError,
)
from service.parts import Parts
from snapshot.errors import NothingPublishedError, RegistryError, SnapshotError, UnknownSnapshotError
from snapshot.manifest import Manifest

_BEARER: dict[str, Any] = {"security": [{"bearer": []}]}
_ERRORS = responses(401, 403, 503)
_CHANGE_ERRORS = responses(401, 403, 404, 408, 409, 413, 422, 503)

_NO_REASON = ActivateBody()

_log = structlog.get_logger("service.admin")


class AdminRoutes:
    """Declares what is wanted, exactly as ``python -m snapshot`` does; the follower does the rest."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tokens = [token.get_secret_value().encode() for token in parts.settings.admin_tokens]

    def mount(self, router: APIRouter) -> None:
        settings = self._parts.settings
        route = json_route(settings.max_body_bytes, settings.max_timeout_ms, self._authorize)
        add_read_route(
            router, "/snapshots", self.snapshots, response_model=SnapshotsResponse, responses=_ERRORS, openapi_extra=_BEARER
        )
        for path, endpoint in (("/snapshots/rollback", self.rollback), ("/snapshots/{snapshot_id}/activate", self.activate)):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                status_code=202,
                response_model=StatusModel,
                responses=_CHANGE_ERRORS,
                openapi_extra=_BEARER,
                route_class_override=route,
            )

    async def snapshots(self, request: Request) -> Response:
        """List the registry, newest first, with what is wanted and what serves."""
        self._authorize(request)
        return json_response(to_bytes(await asyncio.to_thread(self._list)))

    async def activate(self, request: Request, snapshot_id: str, body: ActivateBody = _NO_REASON) -> Response:
        """Declare a snapshot as the one to serve; 202: it is being loaded, and /snapshots tells what came of it."""
        registry = self._parts.registry
        return await self._change(request, lambda: registry.activate(snapshot_id, body.why, _who(request)))

    async def rollback(self, request: Request, body: ActivateBody = _NO_REASON) -> Response:
        """Declare the snapshot that was wanted before as the one to serve."""
        registry = self._parts.registry
        return await self._change(request, lambda: registry.rollback(body.why, _who(request)))

    async def _change(self, request: Request, declare: Callable[[], Manifest]) -> Response:
        self._refuse_while_running()
        manifest = await asyncio.to_thread(_declared, declare)
        self._parts.follower.poke()
        _log.info("snapshot_declared", snapshot=manifest.id, path=request.url.path, request_id=call_of(request).request_id)
        return json_response(to_bytes({**status(self._parts), "desired": manifest.id}), 202)

    def _authorize(self, request: Request) -> None:
        if not self._tokens:
            raise AdminDisabledError("no token is configured; set SCALINGNOTE_ADMIN_TOKENS, or use: python -m snapshot")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise UnauthorizedError("send the header: Authorization: Bearer TOKEN")
        matches = [secrets.compare_digest(given.encode(), token) for token in self._tokens]  # all of them: constant time
        if not any(matches):
            _log.warning("admin_token_wrong", path=request.url.path, request_id=call_of(request).request_id)
            raise UnauthorizedError("the token is none of those configured")

    def _refuse_while_running(self) -> None:
        state = self._parts.generations.state
        if state in LOADING:
            raise SwapRunningError(
                f"{self._parts.follower.desired} is being loaded ({state}); wait until it serves or is refused"
            )

    def _list(self) -> dict[str, Any]:
        registry = self._parts.registry
        try:
            manifests, unreadable, desired = registry.manifests(), registry.unreadable(), registry.current()
        except (RegistryError, OSError) as error:
            raise RegistryFaultError(str(error)) from error
        rows = [_row(manifest, desired, self._parts.generations.serving) for manifest in reversed(manifests)]
        return {**status(self._parts), "desired": desired, "snapshots": rows, "unreadable": unreadable}


def _declared(declare: Callable[[], Manifest]) -> Manifest:
    """Run a change of the registry; its errors as HTTP knows them."""
    try:
        return declare()
    except UnknownSnapshotError as error:
        raise UnknownResourceError(str(error)) from error
    except NothingPublishedError as error:
        raise ConflictError(str(error)) from error
    except (SnapshotError, OSError) as error:
        raise RegistryFaultError(str(error)) from error


def _who(request: Request) -> str:
    host = request.client.host if request.client is not None else "unknown"
    return f"admin API from {host}"


def _row(manifest: Manifest, desired: str | None, serving: str | None) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "name": manifest.name,
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
        "documents": manifest.documents.count,
        "dim": manifest.space.dim,
        "index": manifest.index.kind,
        "precision": manifest.query_tower.precision,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "retained": None if manifest.retention is None else manifest.retention.retained,
        "desired": manifest.id == desired,
        "serving": manifest.id == serving,
    }
