"""Operators' routes under /snapshots, with a bearer token: look, compare, activate, roll back, and watch the swap."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.admin_schemas import (
    ActivateBody,
    DifferencesResponse,
    GateResponse,
    ReasonBody,
    RollbackBody,
    SnapshotsResponse,
    SwapResponse,
    TryBody,
)
from service.api.call import call_of
from service.api.operators import Door, operator_of
from service.api.ops_schemas import StatusModel
from service.api.problems import responses
from service.api.registry_view import difference, gate, row
from service.api.render import json_response, to_bytes
from service.api.route import add_read_route, json_route
from service.api.status import LOADING, status
from service.attempts import Asked
from service.errors import ConflictError, ReadOnlyRegistryError, RegistryFaultError, SwapRunningError, UnknownResourceError
from service.parts import Parts
from service.settings import variable
from snapshot.errors import NothingPublishedError, RegistryError, SnapshotError, UnknownSnapshotError
from snapshot.manifest import Manifest
from snapshot.paths import is_id
from snapshot.registry import Desire

T = TypeVar("T")

_JSONL = "application/jsonl"
_BEARER: dict[str, Any] = {"security": [{"bearer": []}]}
_ERRORS = responses(401, 404, 503)
_GATE_ERRORS = responses(401, 404, 409, 503)
_CHANGE_ERRORS = responses(401, 404, 408, 409, 413, 415, 422, 503)
_NOT_OURS_TO_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)

_NO_REASON = ActivateBody()
_NO_REASON_BACK = RollbackBody()
_NO_REASON_TO_END = ReasonBody()
_TRY = TryBody()


class AdminRoutes:
    """Declares what is wanted, exactly as ``python -m snapshot`` does; the follower does the rest."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._door = Door(parts.tokens)

    def mount(self, router: APIRouter) -> None:
        for path, endpoint, model, errors in (
            ("/snapshots", self.snapshots, SnapshotsResponse, _ERRORS),
            ("/snapshots/swap", self.swap, SwapResponse, _ERRORS),
            ("/snapshots/{snapshot_id}/gate", self.gate, GateResponse, _GATE_ERRORS),
            ("/snapshots/{snapshot_id}/diff/{other_id}", self.diff, DifferencesResponse, _ERRORS),
        ):
            add_read_route(router, path, endpoint, response_model=model, responses=errors, openapi_extra=_BEARER)
        add_read_route(
            router,
            "/snapshots/worst-queries",
            self.worst_queries,
            response_class=Response,
            responses={200: {"content": {_JSONL: {"schema": {"type": "string"}}}}, **_ERRORS},
            openapi_extra=_BEARER,
        )
        settings = self._parts.settings
        route = json_route(settings.max_body_bytes, settings.max_timeout_ms, self._door.audited)
        changes = (
            ("/snapshots/rollback", self.rollback),
            ("/snapshots/end-trial", self.end_trial),
            ("/snapshots/{snapshot_id}/activate", self.activate),
            ("/snapshots/{snapshot_id}/try", self.try_here),
        )
        for path, change in changes:
            router.add_api_route(
                path,
                change,
                methods=["POST"],
                status_code=202,
                response_model=StatusModel,
                responses=_CHANGE_ERRORS,
                openapi_extra=_BEARER,
                route_class_override=route,
            )

    async def snapshots(self, request: Request) -> Response:
        """List the registry, newest first, with what is wanted and what serves."""
        async with self._door.audited(request):
            return json_response(to_bytes(await asyncio.to_thread(_translated, self._list)))

    async def swap(self, request: Request) -> Response:
        """Say how far the running swap is, or how the last one went, and when what failed is tried again."""
        async with self._door.audited(request):
            timeline, follower = self._parts.progress.timeline, self._parts.follower
            described = {
                **status(self._parts),
                "since": timeline.since,
                "running": timeline.running,
                "snapshot": follower.desired if timeline.running else timeline.snapshot,
                "began_at": timeline.began_at,
                "steps": [asdict(step) for step in timeline.steps],
                "next_attempt_seconds": None if timeline.running else follower.retry_in_seconds,
            }
            return json_response(to_bytes(described))

    async def worst_queries(self, request: Request) -> Response:
        """Give the live queries on which student and teacher agree least, as the next distillation's query log."""
        async with self._door.audited(request):
            if not self._parts.settings.live_worst_queries:
                raise UnknownResourceError(f"no queries are kept; set {variable('live_worst_queries')} to how many are to be")
            content = await asyncio.to_thread(self._parts.live.worst_jsonl)
            return Response(content, media_type=_JSONL, headers={"Cache-Control": "no-store"})

    async def gate(self, request: Request, snapshot_id: str) -> Response:
        """Give the checks of a snapshot's attempts to serve here, each with what was measured, against what."""
        async with self._door.audited(request):
            await asyncio.to_thread(_translated, lambda: self._registry.layout(snapshot_id))
            attempts = [report for report in self._parts.follower.gate_reports if report.snapshot == snapshot_id]
            running = await asyncio.to_thread(self._is_tried, snapshot_id)
            if not attempts:
                raise self._running(snapshot_id) if running else self._untried(snapshot_id)
            return json_response(to_bytes(gate(attempts, running=running)))

    async def diff(self, request: Request, snapshot_id: str, other_id: str) -> Response:
        """Put what the manifests of two snapshots say side by side."""
        async with self._door.audited(request):
            first, second = await asyncio.to_thread(_translated, lambda: [*map(self._registry.read, (snapshot_id, other_id))])
            return json_response(to_bytes({"first": first.id, "second": second.id, "facts": difference(first, second)}))

    async def activate(self, request: Request, snapshot_id: str, body: ActivateBody = _NO_REASON) -> Response:
        """Declare a snapshot as the one to serve; 202: it is being loaded, and /snapshots/swap tells what comes of it.

        Whatever else is being loaded is given up.
        """
        if not body.force:
            self._refuse_while_running(snapshot_id)
        return await self._change(
            request,
            lambda: self._registry.activate(snapshot_id, body.why, operator_of(request), force=body.force),
            f"activate {snapshot_id}",
        )

    async def rollback(self, request: Request, body: RollbackBody = _NO_REASON_BACK) -> Response:
        """Declare the snapshot that was wanted before as the one to serve, also in the middle of loading another."""
        return await self._change(
            request, lambda: self._registry.rollback(body.why, operator_of(request), force=body.force), "rollback"
        )

    async def try_here(self, request: Request, snapshot_id: str, body: TryBody = _TRY) -> Response:
        """Want a snapshot in this instance alone, until the registry wants another one, or for so long; 202: as activate."""
        self._refuse_while_running()
        declared = await asyncio.to_thread(_translated, lambda: self._declared_before(snapshot_id))
        who = operator_of(request)
        self._parts.trials.begin(snapshot_id, declared, body.why, who, body.seconds, force=body.force)
        self._follow()
        return json_response(to_bytes({**status(self._parts), "desired": snapshot_id}), 202)

    async def end_trial(self, request: Request, body: ReasonBody = _NO_REASON_TO_END) -> Response:  # noqa: ARG002 - as the others
        """Want what the registry wants, also in the middle of loading what was tried."""
        self._parts.trials.end()
        self._follow()
        current = await asyncio.to_thread(self._desired)
        return json_response(to_bytes({**status(self._parts), "desired": current}), 202)

    def _desired(self) -> str | None:
        """None also where CURRENT cannot be read: ``last_error`` says why, and activating one of the list is the remedy."""
        try:
            return self._registry.current()
        except RegistryError:
            return None

    def _declared_before(self, snapshot_id: str) -> Desire | None:
        """What the registry wants; what is to be tried must be another one, and here unless a remote registry may have it."""
        declared = self._registry.desired()
        if declared is not None and declared.snapshot == snapshot_id:
            raise ConflictError(f"{snapshot_id} is what the registry wants; there is nothing to try")
        if self._parts.mirror is None or not is_id(snapshot_id):
            self._registry.read(snapshot_id)
        return declared

    def _follow(self) -> None:
        self._parts.follower.poke()
        if self._parts.mirror is not None:
            self._parts.mirror.poke()

    async def _change(self, request: Request, declare: Callable[[], Manifest], command: str) -> Response:
        """``command``: what does the same on the command line."""
        try:
            manifest = await asyncio.to_thread(_translated, declare)
        except RegistryFaultError as error:
            raise self._read_only(command) if _forbidden(error) else error from error
        call = call_of(request)
        self._parts.follower.poke(Asked(manifest.id, call.request_id, call.trace_id))
        return json_response(to_bytes({**status(self._parts), "desired": manifest.id}), 202)

    def _refuse_while_running(self, snapshot_id: str | None = None) -> None:
        """While anything is loaded; or, with an id, while that one is: it would only be wanted once more."""
        state = self._parts.generations.state
        if state in LOADING and snapshot_id in (None, self._parts.follower.desired):
            raise SwapRunningError(
                f"{self._parts.follower.desired} is being loaded ({state}); wait until it serves or is refused"
            )

    def _read_only(self, command: str) -> ReadOnlyRegistryError:
        return ReadOnlyRegistryError(
            f"{self._registry.root} cannot be written from this service; where the registry can be written, run: "
            f"python -m snapshot {command} --registry DIR --why REASON. This service follows by itself"
        )

    def _is_tried(self, snapshot_id: str) -> bool:
        """Whether an attempt to serve it goes on, or is about to begin."""
        failure, generations = self._parts.follower.last_error, self._parts.generations
        waits = failure is not None and failure.snapshot == snapshot_id and generations.state not in LOADING
        trial = self._parts.trials.running
        try:
            wanted = trial.desire.snapshot if trial is not None else self._registry.current()
        except (SnapshotError, OSError):  # the follower says so where operators look for it
            wanted = self._parts.follower.desired
        return not waits and generations.serving != snapshot_id == wanted

    def _running(self, snapshot_id: str) -> SwapRunningError:
        state, steps = self._parts.generations.state, self._parts.progress.timeline.steps
        so_far = f"{state} for {steps[-1].seconds:.1f} s" if steps and steps[-1].running else "it begins in a moment"
        return SwapRunningError(
            f"{snapshot_id} is being inspected ({so_far}): its report is here once that is over; see /snapshots/swap meanwhile"
        )

    def _untried(self, snapshot_id: str) -> UnknownResourceError:
        return UnknownResourceError(
            f"{snapshot_id} was not tried in this instance since it started; try it without serving it: "
            f"python -m service gate {snapshot_id} --registry {self._registry.root}"
        )

    def _list(self) -> dict[str, Any]:
        generations = self._parts.generations
        desired, serving, former = self._desired(), generations.serving, generations.former
        reports = {report.snapshot: report for report in self._parts.follower.gate_reports}  # the last one wins
        rows = [row(found, desired, serving, former, reports.get(found.id)) for found in reversed(self._registry.manifests())]
        return {**status(self._parts), "desired": desired, "snapshots": rows, "unreadable": self._registry.unreadable()}


def _translated(work: Callable[[], T]) -> T:
    """Use the registry; its errors as HTTP knows them."""
    try:
        return work()
    except UnknownSnapshotError as error:
        raise UnknownResourceError(str(error)) from error
    except NothingPublishedError as error:
        raise ConflictError(str(error)) from error
    except (SnapshotError, OSError) as error:
        raise RegistryFaultError(str(error)) from error


def _forbidden(error: BaseException | None) -> bool:
    """Whether the cause of an error is that this process may not write."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NOT_OURS_TO_WRITE:
            return True
        error = error.__cause__
    return False
