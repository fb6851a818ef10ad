"""What is known of a request once its answer is out: for the line in the access log, and for its spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.plan import Cause
from service.traceparent import Span
from service.walk import Stage

UNMATCHED = "unmatched"
"""Route of requests that no route takes: paths of strangers make no series."""


@dataclass(frozen=True, slots=True)
class Served:
    """How searches were answered.

    Attributes:
        snapshot: that answered; of embeddings nothing else is known. None: nobody did.
        effort: the least of its table that any of the searches got; None where all were exact.
        exact: whether all were.
        degraded: what any of them gave up.
        expected_recall: the least.
    """

    snapshot: str | None
    effort: int | None = None
    exact: bool | None = None
    degraded: tuple[Cause, ...] = ()
    expected_recall: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        method: of HTTP.
        route: template of its path.
        status: of the answer; 499 where there was none.
        code: of the error; None where it was answered as asked.
        request_id: the caller's, or one that was made here.
        trace_id: of the caller's trace, or of the one that was begun here; None where there is none.
        seconds: from first byte until the answer was handed to the transport.
        budget_ms: of requests that are worked on, once it was known.
        spent_ms: milliseconds by stage, in their order; empty where no work was begun.
        items: searches or texts; None where the body was not read, or makes no sense.
        k: most hits that any search asked for.
        served: None where it was not answered.
        span: where it is traced.
        key: name of the API key that let it in; None where none was asked for, or none did.
        reason: what its caller was not told of the error; None where there is no more to say.
    """

    method: str
    route: str
    status: int
    code: str | None
    request_id: str
    trace_id: str | None
    seconds: float
    budget_ms: float | None
    spent_ms: Mapping[Stage, float]
    items: int | None
    k: int | None
    served: Served | None
    span: Span | None
    key: str | None = None
    reason: str | None = None
