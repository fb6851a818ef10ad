"""Errors as HTTP answers: application/problem+json (RFC 9457), and OpenAI's body under /v1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.call import Call, Reply, call_of
from service.api.describe import OPENAI_PREFIX, PROBLEM_TYPE
from service.api.route import READ_METHODS
from service.api.schemas import OpenAIError, Problem
from service.errors import DeadlineExceededError, ServiceError, TooSlowError, UnknownResourceError, WrongMethodError

_LEFT_FOR_OTHERS = 0.8
"""Of a budget, which the next instance counts from its own first byte."""
_PROBLEM_TYPE = PROBLEM_TYPE.encode()


def reply_of(error: ServiceError, call: Call, path: str) -> Reply:
    """The answer that an error is, in the shape of the path's family."""
    error = _for_others(error, call)
    call.code, call.reason = error.code, error.reason
    if error.spent_ms is not None:
        call.timings_ms = error.spent_ms
    if path.startswith(OPENAI_PREFIX):
        status, kind, body = _openai_status(error), b"application/json", to_json(_openai_body(error))
    else:
        status, kind, body = error.status, _PROBLEM_TYPE, to_json(_problem_body(error, call))
    return Reply(status, [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *_headers(error)], body)


def problem(error: ServiceError, call: Call, path: str) -> Response:
    """The same for the layers of FastAPI."""
    reply = reply_of(error, call, path)
    response = Response(reply.body, reply.status)
    response.raw_headers = list(reply.headers)
    return response


def install(app: FastAPI) -> None:
    """Let every error that the application knows leave it in this shape."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def responses(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """How a route declares the errors that it answers with."""
    model = OpenAIError if openai else Problem
    return {status: {"model": model, "description": HTTPStatus(status).phrase} for status in statuses}


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class
    return problem(error, call_of(request), request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, or no such method on it."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    path = request.url.path
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return problem(UnknownResourceError(f"there is no {path}; the routes are in /openapi.json"), call_of(request), path)
    response = problem(WrongMethodError(f"{path} does not take {request.method}"), call_of(request), path)
    response.headers.update(error.headers or {})
    if response.headers["allow"] == "GET":
        response.headers["allow"] = READ_METHODS
    return response


def _for_others(error: ServiceError, call: Call) -> ServiceError:
    """TooSlowError in place of a hopeless budget, where there is another instance and time for it."""
    if call.elsewhere and isinstance(error, DeadlineExceededError) and error.left_share >= _LEFT_FOR_OTHERS:
        return TooSlowError(str(error), error.spent_ms or {})
    return error


def _problem_body(error: ServiceError, call: Call) -> Mapping[str, Any]:
    body: dict[str, Any] = {
        "type": f"urn:scalingnote:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": call.request_id,
    }
    if error.errors:
        body["errors"] = [{"path": item.path, "message": item.message} for item in error.errors]
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = round(error.retry_after_ms, 1)
    if error.spent_ms is not None:
        body["spent_ms"] = error.spent_ms
    return body


def _openai_body(error: ServiceError) -> Mapping[str, Any]:
    kind = "rate_limit_error" if error.status == 429 else "invalid_request_error" if error.status < 500 else "server_error"
    param = error.errors[0].path if error.errors else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def _openai_status(error: ServiceError) -> int:
    """OpenAI's clients know 400 for what is malformed."""
    return 400 if error.status == 422 else error.status


def _headers(error: ServiceError) -> list[tuple[bytes, bytes]]:
    headers = [(b"cache-control", b"no-store")]
    if error.retry_after_ms is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_ms / 1000))))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 415:
        headers.append((b"accept-encoding", b"identity"))
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return headers
