"""GET /: the console, one page for operators and the curious. No build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

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
_FILES = {
    "/": ("index.html", "text/html"),
    "/console/console.js": ("console.js", "text/javascript"),
    "/console/style.css": ("style.css", "text/css"),
}


def mount(router: APIRouter) -> None:
    """Serve the page's files from memory."""
    for path, (name, media_type) in _FILES.items():
        content = files("service").joinpath("console", name).read_bytes()
        add_read_route(router, path, _Page(content, media_type), include_in_schema=False)


class _Page:
    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type

    async def __call__(self) -> Response:
        return Response(self._content, 200, _HEADERS, self._media_type)
