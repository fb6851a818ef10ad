"""Completes the OpenAPI document that FastAPI makes: the errors and headers that every route has, and none that none has."""

from __future__ import annotations

from typing import Any

PROBLEM_TYPE = "application/problem+json"
OPENAI_PREFIX = "/v1/"

_VALIDATION = ("HTTPValidationError", "ValidationError")
"""FastAPI's own, which it declares with 422 on every route with a body, and which none answers with."""
_EVERYWHERE = {
    "500": "Internal Server Error",
    "default": "What no route takes: 404, there is no such path; 405, not by this method.",
}
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "The caller's, or made up.", "schema": {"type": "string"}, "required": True},
    "Server-Timing": {"description": "Milliseconds by stage, and in total.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}, "required": True},
    "WWW-Authenticate": {"description": "Bearer.", "schema": {"type": "string"}, "required": True},
}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An operator's token."},
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, where the service wants one."},
    "key_header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same; wins where both are sent."},
}
NEEDS_KEY: list[dict[str, list[str]]] = [{"key": []}, {"key_header": []}, {}]
"""How a route declares that it wants an API key, where the service has any; ``{}``: or none."""
_HEADERS_OF = {"401": ("WWW-Authenticate",), "429": ("Retry-After",), "503": ("Retry-After",), "504": ("Server-Timing",)}


def complete(document: dict[str, Any]) -> None:
    """Change ``document`` in place, so that it says what the service answers."""
    components = document["components"]
    components["securitySchemes"] = _SECURITY
    components["headers"] = _HEADERS
    for name in _VALIDATION:
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"] = _responses(operation["responses"], openai=path.startswith(OPENAI_PREFIX))


def _responses(declared: dict[str, Any], *, openai: bool) -> dict[str, Any]:
    kept = {status: response for status, response in declared.items() if not _is_validation(response)}
    for status, description in _EVERYWHERE.items():
        kept[status] = {"description": description}
    schema, media = ("OpenAIError", "application/json") if openai else ("Problem", PROBLEM_TYPE)
    for status, response in kept.items():
        if status >= "400":
            response["content"] = {media: {"schema": _reference("schemas", schema)}}
        names = ("X-Request-ID", *_HEADERS_OF.get(status, ()))
        if status == "200" and "504" in kept:  # a route that works on a query
            names += ("Server-Timing",)
        response["headers"] = {name: _reference("headers", name) for name in names}
    return kept


def _is_validation(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema == _reference("schemas", _VALIDATION[0]))


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
