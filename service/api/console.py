"""GET /: the console, one page for operators and the curious. No build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter
from starlette.responses import Response

from service.api.route import add_read_route

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_PAGE = "index.html"


def mount(router: APIRouter) -> None:
    """Serve the page's files from memory."""
    for file in files("service").joinpath("console").iterdir():
        media_type = _TYPES.get(PurePath(file.name).suffix)
        if media_type is not None:  # else an editor's
            path = "/" if file.name == _PAGE else f"/console/{file.name}"
            add_read_route(router, path, _Page(file.read_bytes(), media_type), include_in_schema=False)


class _Page:
    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type

    async def __call__(self) -> Response:
        return Response(self._content, 200, _HEADERS, self._media_type)
