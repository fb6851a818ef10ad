"""GET /docs: the OpenAPI document as a page to try the routes on, where the extra ``docs`` is installed; nothing from elsewhere.

FastAPI's own page loads its scripts from a CDN and starts them inline, which no strict content security policy allows.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from fastapi import APIRouter

from service.api.page import add_page

PACKAGE = "fastapi_swagger"
"""Carries the files of Swagger UI; its own routes are not used."""
_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ScalingNote: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="routes"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b'SwaggerUIBundle({url: "/openapi.json", dom_id: "#routes", deepLinking: true, validatorUrl: null});\n'


def mount(router: APIRouter) -> None:
    """Serve the page from memory; without the package there is none."""
    if find_spec(PACKAGE) is None:
        return
    folder = files(PACKAGE).joinpath("resources")
    served = {
        "/docs": (_PAGE, "text/html"),
        "/docs/start.js": (_START, "text/javascript"),
        "/docs/swagger-ui-bundle.js": (folder.joinpath("swagger-ui-bundle.js").read_bytes(), "text/javascript"),
        "/docs/swagger-ui.css": (folder.joinpath("swagger-ui.css").read_bytes(), "text/css"),
    }
    for path, (content, media_type) in served.items():
        add_page(router, path, content, media_type)
