"""Everything that can go wrong with a call.

ClientError
├── UnreachableError            no connection, or it broke before the answer was whole
├── UnexpectedAnswerError       an answer that is not this service's: a proxy's page, a wrong address
├── DeadlineError               no answer in time
│   └── BudgetSpentError  504   the service said so itself; ``spent_ms`` says where
└── ProblemError                the service refused, as application/problem+json
    ├── RequestError      4xx   wrong request: asking again changes nothing; ``places`` names what is wrong. Also what
    │   │                       cannot be sent at all, as 422
    │   ├── DeniedError   401   no API key, or one that is not known; 403: it does not allow this
    │   └── TooLargeError 413
    ├── OverloadedError   429   shed at the door, or beyond the API key's rate; or a balancer's own
    ├── UnavailableError  503   this instance cannot answer; another one may; or a balancer's own
    ├── BudgetSpentError  504
    └── FaultError        5xx   a fault of the service: its log has ``request_id``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from pydantic import BaseModel, ConfigDict, ValidationError

UNNAMED = "unnamed"
"""Code of a 429 or 503 that names none, as those of balancers."""
_MOST_RETRY_AFTER_MS = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Place:
    """One thing wrong with a request.

    Attributes:
        path: where, as segments joined by dots, e.g. ``filter.$and.1.price.$gt``.
    """

    path: str
    message: str


class ClientError(Exception):
    """Root of the tree.

    Attributes:
        request_id: of the call; the service's log has it too.
    """

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(f"{message} (request_id {request_id})")
        self.request_id = request_id


class UnreachableError(ClientError):
    """No connection, or it broke before the answer was whole. The service may have done the work."""


class UnexpectedAnswerError(ClientError):
    """An answer that is not this service's.

    Attributes:
        status: its HTTP status.
    """

    def __init__(self, status: int, kind: str, request_id: str) -> None:
        super().__init__(
            f"HTTP {status} with {kind or 'no content type'}, not an answer of this service: look at the URL", request_id
        )
        self.status = status


class DeadlineError(ClientError):
    """No answer in time.

    Attributes:
        spent_ms: where the service spent its budget, by stage; None where it did not say.
    """

    spent_ms: Mapping[str, float] | None = None


class Problem(BaseModel):
    """Body of every error of the service (RFC 9457)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: int
    code: str
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None
    retry_after_ms: float | None = None
    spent_ms: dict[str, float] | None = None


class ProblemError(ClientError):
    """The service refused.

    Attributes:
        status: HTTP status.
        code: stable name of the error, as in docs/api.md; ``unnamed`` where a balancer refused, who names none.
        detail: what is wrong and what to do.
        retry_after_ms: when the service wants to be asked again, if it said so.
        places: what is wrong with the request, place by place.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}", problem.request_id)
        self.status = problem.status
        self.code = problem.code
        self.detail = problem.detail
        self.retry_after_ms = problem.retry_after_ms
        self.places = tuple(Place(item.get("path", ""), item.get("message", "")) for item in problem.errors or ())


class RequestError(ProblemError):
    """Wrong request: asking again changes nothing."""


class TooLargeError(RequestError):
    """The body, or one of its texts, is longer than the service accepts."""


class DeniedError(RequestError):
    """The API key is missing, not known or over, or it does not allow this."""


class OverloadedError(ProblemError):
    """As many requests as the service takes are in flight, or the API key allows no more for now; ``code`` says which."""


class UnavailableError(ProblemError):
    """This instance cannot answer; another one may."""


class BudgetSpentError(ProblemError, DeadlineError):
    """The service had nothing to give within the budget."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.spent_ms = problem.spent_ms


class FaultError(ProblemError):
    """A fault of the service."""


_BY_STATUS: Mapping[int, type[ProblemError]] = {
    401: DeniedError,
    403: DeniedError,
    413: TooLargeError,
    429: OverloadedError,
    503: UnavailableError,
    504: BudgetSpentError,
}
_BY_ANYBODY = (429, 503)
"""These say the same whoever says them: later, or elsewhere."""


def error_of(status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> ProblemError | UnexpectedAnswerError:
    """The error that an answer other than 200 is."""
    kind = headers.get("content-type", "")
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        if status not in _BY_ANYBODY:
            return UnexpectedAnswerError(status, kind, request_id)
        detail = f"refused with {kind or 'no content type'}, not by this service: a balancer's word"
        problem = Problem(status=status, code=UNNAMED, detail=detail, request_id=request_id)
    if problem.retry_after_ms is None:
        problem = problem.model_copy(update={"retry_after_ms": _retry_after_ms(headers)})
    return _class_of(status)(problem)


def unsendable(path: str, message: str, request_id: str) -> RequestError:
    """What the service would answer to what no HTTP request can hold."""
    errors = [{"path": path, "message": message}]
    detail = f"{path}: {message}; nothing was sent"
    return RequestError(Problem(status=422, code="request_invalid", detail=detail, request_id=request_id, errors=errors))


def _class_of(status: int) -> type[ProblemError]:
    return _BY_STATUS.get(status) or (FaultError if status >= 500 else RequestError)


def _retry_after_ms(headers: Mapping[str, str]) -> float | None:
    """Of the header, in seconds or a date, which is counted from the answer's own Date: clocks differ. A day at most."""
    raw = headers.get("retry-after", "").strip()
    if raw.isascii() and raw.isdecimal():
        return min(float(raw) * 1000.0, _MOST_RETRY_AFTER_MS)
    then, now = _seconds_of(raw), _seconds_of(headers.get("date", ""))
    if then is None:
        return None
    return min(max(0.0, (then - (time.time() if now is None else now)) * 1000.0), _MOST_RETRY_AFTER_MS)


def _seconds_of(date: str) -> float | None:
    """Since 1970; None where it is no date of HTTP."""
    try:
        told = parsedate_to_datetime(date)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
