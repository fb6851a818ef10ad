"""Files that browsers are given: from memory, and allowed nothing from elsewhere."""

from __future__ import annotations

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


def add_page(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    """Declare a route, no part of the OpenAPI document, that gives ``content`` under a strict content security policy."""
    add_read_route(router, path, _Page(content, media_type), include_in_schema=False)


class _Page:
    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type

    async def __call__(self) -> Response:
        return Response(self._content, 200, _HEADERS, self._media_type)
