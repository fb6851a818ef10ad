"""GET /livez /readyz /healthz /metrics /info /history /openapi.json: for orchestrators, Prometheus and people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from service.api.ops_schemas import HistoryResponse, InfoResponse, LiveResponse, ReadyResponse
from service.api.problems import responses
from service.api.render import json_response, to_bytes
from service.api.route import add_read_route
from service.api.status import engine_status, proof_status, refresh_gauges, remote_status, status, trial_status, unready
from service.history import INTERVAL_SECONDS, KEPT_SECONDS
from service.metrics import Metrics
from service.parts import Parts
from service.settings import effective

_NO_STORE = {"Cache-Control": "no-store"}
_OPENMETRICS = "application/openmetrics-text"
_VERBOSE = {
    "parameters": [
        {"name": "verbose", "in": "query", "description": "List each check.", "schema": {"type": "string"}, "required": False}
    ]
}


class OpsRoutes:
    """What is known without working on a query. None of it waits for a worker thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def mount(self, router: APIRouter) -> None:
        add_read_route(router, "/livez", self.livez, response_model=LiveResponse)
        for path, shown in (("/readyz", "readyz"), ("/healthz", "healthz")):
            add_read_route(
                router,
                path,
                self.readyz,
                name=shown,
                response_model=ReadyResponse,
                responses=responses(503),
                openapi_extra=_VERBOSE,
            )
        add_read_route(
            router, "/metrics", self.metrics, response_class=Response, responses={200: {"content": {"text/plain": {}}}}
        )
        add_read_route(router, "/info", self.info, response_model=InfoResponse)
        add_read_route(router, "/history", self.history, response_model=HistoryResponse)
        add_read_route(router, "/openapi.json", self.openapi, include_in_schema=False)

    async def livez(self) -> Response:
        """Say that the process answers. Restart it where it does not."""
        return json_response(to_bytes({"status": "alive"}))

    async def readyz(self, request: Request) -> Response:
        """Say whether to send requests here: a snapshot is served and the service is not shutting down."""
        reason = unready(self._parts)
        if reason is not None:
            raise reason
        serving = self._parts.generations.serving
        checks = {"serving": serving, "draining": "no", "snapshots": self._parts.generations.state.value}
        return json_response(
            to_bytes({"status": "ready", "snapshot": serving, "checks": checks if "verbose" in request.query_params else None})
        )

    async def metrics(self, request: Request) -> Response:
        """Give every instrument in Prometheus' or OpenMetrics' format."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        refresh_gauges(self._parts)
        exemplars = media_type.startswith(_OPENMETRICS)
        content = await asyncio.get_running_loop().run_in_executor(
            self._parts.scrapes, _exposition, self._parts.metrics, encode, exemplars
        )
        return Response(content, headers={**_NO_STORE, "Content-Type": media_type})

    async def info(self) -> Response:
        """Describe what runs: version, effective settings without secrets, and the snapshot that serves."""
        current = self._parts.generations.current
        manifest = None if current is None else current.manifest.model_dump(mode="json", exclude={"files"})
        described: dict[str, Any] = {
            "version": version("scalingnote"),
            "instance": self._parts.instance,
            **status(self._parts),
            "in_flight": self._parts.limiter.in_flight,
            "trial": trial_status(self._parts),
            "remote": remote_status(self._parts),
            "snapshot": manifest,
            "proof": proof_status(self._parts),
            "engine": engine_status(self._parts),
            "threads": self._parts.threads.as_dict(),
            "batching": [] if current is None else [asdict(size) for size in current.encoder.batching.sizes],
            "query_cache": asdict(self._parts.cache.stats),
            "settings": effective(self._parts.settings),
        }
        return json_response(to_bytes(described))

    async def history(self) -> Response:
        """Give the last fifteen minutes of this instance, a sample each five seconds, as its console draws them."""
        history = self._parts.history
        described = {
            "budget_ms": history.budget_ms,
            "interval_seconds": INTERVAL_SECONDS,
            "kept_seconds": KEPT_SECONDS,
            "samples": history.samples,  # as they are: made dictionaries, they took ten times as long
        }
        return json_response(to_bytes(described))

    async def openapi(self, request: Request) -> Response:
        """Describe every route."""
        return json_response(to_bytes(request.app.openapi()))


def _exposition(metrics: Metrics, encode: Callable[[CollectorRegistry], bytes], exemplars: bool) -> bytes:
    """Histograms first: OpenMetrics ends with a mark."""
    return metrics.histograms(exemplars).encode() + encode(metrics.plain)
