"""GET /: the console, one page for operators and the curious. No build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter

from service.api.page import add_page

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_PAGE = "index.html"


def mount(router: APIRouter) -> None:
    """Serve the page's files from memory."""
    for file in files("service").joinpath("console").iterdir():
        media_type = _TYPES.get(PurePath(file.name).suffix)
        if media_type is not None:  # else an editor's
            path = "/" if file.name == _PAGE else f"/console/{file.name}"
            add_page(router, path, file.read_bytes(), media_type)
