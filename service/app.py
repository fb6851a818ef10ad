"""The application: routes, middleware and error handlers over given parts. Building it starts nothing."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Receive, Scope, Send

from service.api import console, docs, problems
from service.api.admin import AdminRoutes
from service.api.compare import CompareRoutes
from service.api.describe import complete
from service.api.embed import EmbedRoutes
from service.api.envelope import Direct, Envelope
from service.api.ops import OpsRoutes
from service.api.search import SearchRoutes
from service.api.work import WorkDeclaration
from service.parts import Parts
from service.record import UNMATCHED

_DESCRIPTION = "Dense retrieval within a latency budget. Every error is application/problem+json; under /v1, OpenAI's shape."


class Application(FastAPI):
    """FastAPI with a document that is true of our errors, and no pages that load scripts from elsewhere.

    Attributes:
        direct: applications by path, for POST.
    """

    def __init__(self) -> None:
        super().__init__(
            title="ScalingNote",
            version=version("scalingnote"),
            description=_DESCRIPTION,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            generate_unique_id_function=lambda route: route.name,
        )
        self.direct: dict[str, Direct] = {}

    def turns_away(self, scope: Scope) -> bool:
        """``service.connections.Door``: only those that work on queries do, and only where there are too many already."""
        app = self._direct(scope)
        return app is not None and app.turns_away(scope)

    def begins_at_once(self, scope: Scope) -> bool:
        """``service.connections.Door``: the same ones; FastAPI's layers need a task."""
        return self._direct(scope) is not None

    def _direct(self, scope: Scope) -> Direct | None:
        return self.direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a POST to a route of ``direct`` without the layers that the others go through."""
        app = self._direct(scope)
        if app is None:
            await super().__call__(scope, receive, send)
        else:
            await app(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=self.version, description=self.description, routes=self.routes)
            complete(document)
            self.openapi_schema = document
        return self.openapi_schema


def create_app(parts: Parts) -> Application:
    """The application over ``parts``, which somebody else starts and stops."""
    app = Application()
    for routes in (SearchRoutes(parts), EmbedRoutes(parts), OpsRoutes(parts), AdminRoutes(parts), CompareRoutes(parts)):
        routes.mount(app.router)
    console.mount(app.router)
    docs.mount(app.router)
    problems.install(app)
    app.add_middleware(Envelope, parts=parts)
    work = [route for route in app.routes if isinstance(route, WorkDeclaration)]
    app.direct = {route.path: Direct(route.work, parts) for route in work}
    parts.metrics.routes([UNMATCHED, *(getattr(route, "path", UNMATCHED) for route in app.routes)])
    return app
