"""Routes with a JSON body: declared as FastAPI routes are, so that the OpenAPI document is complete, but run leanly.

FastAPI's own handler resolves dependencies and validates twice; here the raw body goes through one pydantic adapter and
the endpoint answers with a Response. The body is limited while it is read, whatever Content-Length says.
Those that work on queries, ``service.api.work``, do without the router and its layers as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, get_type_hints

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.call import Call, arrived, call_of
from service.errors import BodyTimeoutError, BodyTooLargeError, CallerGoneError, CodedBodyError, FieldError, InvalidRequestError

_DISCARD_BYTES = 16 << 20
"""Read, and thrown away, of a body that is too long: a socket closed on unread bytes resets, and the answer would be lost."""


READ_METHODS = "GET, HEAD"


def add_read_route(router: APIRouter, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
    """Declare a GET route, which answers HEAD too; the server leaves the body out."""
    router.add_api_route(path, endpoint, **options)
    router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


Guard = Callable[[Request], AbstractAsyncContextManager[None]]


def json_route(max_bytes: int, timeout_ms: float, guard: Guard = lambda _: nullcontext()) -> type[APIRoute]:
    """A route class whose endpoint takes ``body`` (of a type that pydantic knows), ``request`` and path parameters.

    Args:
        max_bytes: longest body.
        timeout_ms: longest wait for the whole body.
        guard: around the whole call; raises where the caller may not use the route, before anything of the body is read.
    """

    class JsonRoute(APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            super().__init__(path, endpoint, **options)
            adapter = TypeAdapter[Any](get_type_hints(endpoint, include_extras=True)["body"])

            async def run(scope: Scope, receive: Receive, send: Send) -> None:
                request = Request(scope, receive, send)
                async with guard(request):
                    call = call_of(request)
                    check_coding(call)
                    body = parse(adapter, await read(scope, receive, call.declared_bytes, max_bytes, timeout_ms))
                    response = await endpoint(body=body, request=request, **request.path_params)
                await response(scope, receive, send)

            self.app = run

    return JsonRoute


def check_coding(call: Call) -> None:
    """CodedBodyError where a body is not sent as it is."""
    if call.coding != "identity":
        raise CodedBodyError(f"Content-Encoding: {call.coding:.60} is not read; send the JSON as it is, without Content-Encoding")


def parse(adapter: TypeAdapter[Any], raw: bytes) -> Any:
    """Parse a body; an empty one is an empty object.

    Raises:
        InvalidRequestError: not JSON (NaN, Infinity and lone surrogates included), or not what the route takes.
    """
    try:
        value = from_json(raw or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(FieldError("body", f"not JSON: {error}")) from error
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequestError(*(FieldError(_path(item["loc"]), _message(item)) for item in found)) from error


async def read(
    scope: Scope, receive: Receive, declared_bytes: int, max_bytes: int, timeout_ms: float, waited_ms: float = 0.0
) -> bytes:
    """The whole body, of which Content-Length has declared a length; 0 where it has not.

    ``waited_ms`` of ``timeout_ms`` have passed before.

    Raises:
        BodyTooLargeError, BodyTimeoutError: as they say.
        CallerGoneError: the connection was closed before its end.
    """
    if declared_bytes > max_bytes + _DISCARD_BYTES:
        raise _too_large(max_bytes)
    if arrived(scope):
        return await _gather(receive, max_bytes)
    try:
        async with asyncio.timeout((timeout_ms - waited_ms) / 1000):
            return await _gather(receive, max_bytes)
    except TimeoutError as error:
        raise BodyTimeoutError(f"the body was not complete after {timeout_ms:g} ms; send it faster") from error


async def _gather(receive: Receive, max_bytes: int) -> bytes:
    body, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError("queue")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        if not size and not more and len(chunk) <= max_bytes:
            return bytes(chunk)  # the usual case: it came whole
        size += len(chunk)
        if size <= max_bytes:
            body += chunk
        elif not more or size > max_bytes + _DISCARD_BYTES:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is longer than {max_bytes} bytes; send less, or raise the limit in the service's settings"
    )


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc)) or "body"


def _message(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):  # pydantic's words name a class, and Python's word
        return "input should be a JSON object"
    text = error["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
