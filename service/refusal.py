"""A whole answer in bytes, for requests that reach no application."""

from __future__ import annotations

import secrets

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import ServiceError
from service.headers import SAFE

_SAFE = b"".join(b"%b: %b\r\n" % header for header in SAFE)


def refusal(error: ServiceError) -> bytes:
    """The problem that an error is, after which the connection is closed."""
    request_id = secrets.token_hex(16)
    body = to_json(
        {
            "type": f"urn:scalingnote:problem:{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": str(error),
            "code": error.code,
            "request_id": request_id,
        }
    )
    retry = "retry-after: 1\r\n" if error.retry_after_ms is not None else ""
    head = (
        f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
        f"cache-control: no-store\r\n{retry}connection: close\r\n"
    )
    return b"%b%b%b\r\n%b" % (STATUS_LINE[error.status], head.encode(), _SAFE, body)
