"""Everything that can go wrong online. Each error carries the HTTP status and a stable code; the message says what to do.

ServiceError
├── MalformedRequestError  400  not HTTP
├── InvalidRequestError    422  the request does not mean anything; ``errors`` names each place
├── HeaderTimeoutError     408  the headers did not arrive in time
├── BodyTimeoutError       408  the body did not arrive in time
├── BodyTooLargeError      413
├── CodedBodyError         415  the body is compressed
├── HeadersTooLargeError   431
├── UnauthorizedError      401  no token, or a wrong one
│   └── KeyUnknownError         no API key, or one that is not known or has expired
├── KeyScopeError          403  the API key does not allow this
├── UnknownResourceError   404
│   └── AdminDisabledError      no token is configured, so operators' routes are off
├── WrongMethodError       405
├── ConflictError          409  nothing was active before
│   ├── SwapRunningError        another snapshot is being loaded
│   └── ReadOnlyRegistryError   this service may not write the registry: another place has to
├── OverloadedError        429  shed at the door; ``retry_after_ms`` is measured
├── KeyRateError           429  the API key allows no more for now
├── UnavailableError       503
│   ├── CrowdedError            as many connections as the service holds are open and at work
│   ├── BodiesError             bodies that are being received take as much memory as they may together
│   ├── TooSlowError            a budget is hopeless here, and whoever asks would ask another instance
│   ├── EngineFaultError        the search engine of the snapshot, on another machine, gives no answer
│   ├── RegistryFaultError      the registry cannot be read or written
│   ├── TokensError             the file of operators' tokens cannot be read, or a line of it is wrong
│   ├── NoGenerationError       no snapshot serves
│   └── DrainingError           the service is shutting down
├── DeadlineExceededError  504  the budget is spent with nothing to give; ``spent_ms`` says where
├── CallerGoneError        499  nobody is left to answer
├── SettingsError          (start) a setting is wrong
├── KeysFileError          (start, log, command line) the file of API keys cannot be read or written, or a line is wrong
├── UnreachableError       (doctor, explain) a running service cannot be asked, or what answers is none
└── AddressInUseError      (start) the port is taken
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request.

    Attributes:
        path: where, as segments joined by dots, e.g. ``filter.$and.1.price.$gt`` or ``header.Request-Timeout-Ms``.
        message: what is wrong and what would be right.
    """

    path: str
    message: str


MOST_ERRORS = 10
"""Places that one answer names: a body can be wrong in as many as it has bytes."""
_MOST_CHARACTERS = 400
"""Of a path or message: both may quote what was sent."""


class ServiceError(Exception):
    """Root of the tree."""

    status = 500
    code = "internal"
    title = "Internal error"
    retry_after_ms: float | None = None
    errors: tuple[FieldError, ...] = ()
    spent_ms: Mapping[str, float] | None = None
    reason: str | None = None
    """More than its message, for the log alone."""


class InvalidRequestError(ServiceError):
    """The request does not mean anything; ``errors`` names the first ``MOST_ERRORS`` places, ``more`` counts the rest."""

    status = 422
    code = "request_invalid"
    title = "Invalid request"

    def __init__(self, *errors: FieldError, more: int = 0) -> None:
        kept = tuple(FieldError(_short(error.path), _short(error.message)) for error in errors[:MOST_ERRORS])
        more += len(errors) - len(kept)
        text = "; ".join(f"{error.path}: {error.message}" if error.path else error.message for error in kept)
        super().__init__(f"{text}; … and {more} more" if more else text)
        self.errors = kept
        self.more = more

    def under(self, prefix: str) -> InvalidRequestError:
        """The same, seen from outside: every path begins with ``prefix``."""
        inside = (FieldError(f"{prefix}.{error.path}".rstrip("."), error.message) for error in self.errors)
        return InvalidRequestError(*inside, more=self.more)


class MalformedRequestError(ServiceError):
    """What came is not HTTP."""

    status = 400
    code = "request_malformed"
    title = "Not an HTTP request"


class HeaderTimeoutError(ServiceError):
    """The headers did not arrive in time."""

    status = 408
    code = "header_timeout"
    title = "Request headers not received in time"


class HeadersTooLargeError(ServiceError):
    """The headers are more, or longer, than the service accepts."""

    status = 431
    code = "headers_too_large"
    title = "Request headers too large"


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    code = "body_timeout"
    title = "Request body not received in time"


class BodyTooLargeError(ServiceError):
    """The body, or one of its texts, is longer than the service accepts."""

    status = 413
    code = "body_too_large"
    title = "Request body too large"


class CodedBodyError(ServiceError):
    """The body has a Content-Encoding."""

    status = 415
    code = "body_coded"
    title = "Compressed bodies are not read"


class UnauthorizedError(ServiceError):
    """An operator's route was called without a token, or with a wrong one."""

    status = 401
    code = "unauthorized"
    title = "Bearer token missing or wrong"


class KeyUnknownError(UnauthorizedError):
    """A request came without an API key, or with one that is not known or has expired."""

    code = "key_unknown"
    title = "API key missing, wrong or expired"


class KeyScopeError(ServiceError):
    """The API key does not allow this."""

    status = 403
    code = "key_scope"
    title = "Not allowed to this API key"


class UnknownResourceError(ServiceError):
    """There is nothing of that name."""

    status = 404
    code = "not_found"
    title = "Not found"


class AdminDisabledError(UnknownResourceError):
    """No token is configured, so operators' routes are off."""

    code = "admin_disabled"
    title = "Operators' routes are off"


class WrongMethodError(ServiceError):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class ConflictError(ServiceError):
    """What is asked for does not fit the present state."""

    status = 409
    code = "conflict"
    title = "Conflict"


class SwapRunningError(ConflictError):
    """Another snapshot is being loaded."""

    code = "swap_running"
    title = "A swap is running"


class ReadOnlyRegistryError(ConflictError):
    """The registry may not be written from here; trying again changes nothing."""

    code = "registry_read_only"
    title = "The registry is read-only here"


class OverloadedError(ServiceError):
    """Shed at the door: as many requests as the service takes are in flight."""

    status = 429
    code = "overloaded"
    title = "Too many requests in flight"

    def __init__(self, message: str, retry_after_ms: float) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class KeyRateError(ServiceError):
    """The API key allows no more for now."""

    status = 429
    code = "key_rate_limited"
    title = "Too many requests with this API key"

    def __init__(self, message: str, retry_after_ms: float) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class UnavailableError(ServiceError):
    """This instance cannot answer; another one may."""

    status = 503
    code = "unavailable"
    title = "Service unavailable"
    retry_after_ms = 1000.0


class CrowdedError(UnavailableError):
    """As many connections as the service holds are open: all at work, or this one made room since its body did not come."""

    code = "too_many_connections"
    title = "Too many connections"


class BodiesError(UnavailableError):
    """Bodies that are being received take as much memory as they may together, and this one has been on its way for longest."""

    code = "too_many_bodies"
    title = "Too many bodies being received"


class TooSlowError(UnavailableError):
    """What must still come takes longer here than what is left of a budget; another instance has nearly all of it left."""

    code = "too_slow"
    title = "Too slow for the budget"

    def __init__(self, message: str, spent_ms: Mapping[str, float]) -> None:
        super().__init__(message)
        self.spent_ms = spent_ms


class EngineFaultError(UnavailableError):
    """The search engine of the snapshot that serves, on another machine, gives no answer, or none that can be trusted.

    Callers learn of what kind the fault is; where the engine is and what it said is for the log.
    """

    code = "engine_fault"
    title = "The search engine gives no answer"

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: the server that keeps the vectors gave no answer; the log has the reason under the request_id")
        self.reason = reason


class RegistryFaultError(UnavailableError):
    """The registry cannot be read or written."""

    code = "registry_fault"
    title = "The registry cannot be read or written"


class TokensError(UnavailableError):
    """The file of operators' tokens cannot be read or written, or a line of it is wrong: nobody is let in."""

    code = "admin_tokens_invalid"
    title = "Operators' tokens cannot be read"


class NoGenerationError(UnavailableError):
    """No snapshot serves."""

    code = "no_snapshot"
    title = "No snapshot is being served"


class DrainingError(UnavailableError):
    """The service is shutting down."""

    code = "draining"
    title = "Shutting down"


class DeadlineExceededError(ServiceError):
    """The budget is spent with nothing to give.

    Attributes:
        stage: the stage that was not begun, or whose result came too late.
        spent_ms: by stage, and in ``total``.
        left_share: of the budget; above 0 where what was still to come would have taken longer than what was left.
    """

    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"

    def __init__(self, message: str, stage: str, spent_ms: Mapping[str, float], left_share: float = 0.0) -> None:
        super().__init__(message)
        self.stage = stage
        self.spent_ms = spent_ms
        self.left_share = left_share


class CallerGoneError(ServiceError):
    """The caller closed the connection; what was left to do for it is dropped.

    Attributes:
        stage: the stage that was not begun.
    """

    status = 499
    code = "caller_gone"
    title = "Caller closed the connection"

    def __init__(self, stage: str) -> None:
        super().__init__(f"dropped before {stage}: the caller closed the connection")
        self.stage = stage


class SettingsError(ServiceError):
    """A setting is missing or wrong; the service does not start."""

    code = "settings_invalid"
    title = "Wrong settings"


class KeysFileError(ServiceError):
    """The file of API keys cannot be read or written, or a line of it is wrong."""

    code = "api_keys_invalid"
    title = "API keys cannot be read"


class UnreachableError(ServiceError):
    """A running service cannot be asked, or what answers is no service of ours."""

    code = "service_unreachable"
    title = "Service unreachable"


class AddressInUseError(ServiceError):
    """The address cannot be bound; the service does not start."""

    code = "address_unavailable"
    title = "Address unavailable"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
