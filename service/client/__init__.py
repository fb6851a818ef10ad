"""A client of the service: sync and async, a deadline for each call, and retries only where the service asks for them.

    with Client("http://localhost:8000", timeout_ms=200) as client:
        for hit in client.search("join two paths together", k=3).hits:
            print(hit.id, hit.score)

Nothing of the service itself is imported; httpx comes with the extra ``client``.
"""

try:
    import httpx as _httpx  # noqa: F401 - only whether it is there
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("service.client needs httpx: pip install 'scalingnote[client]'", name="httpx") from missing

from service.client.answers import BatchAnswer, Degraded, EmbedAnswer, Hit, Result, SearchAnswer
from service.client.asynchronous import AsyncClient
from service.client.calls import CallOptions, SearchItem, SearchOptions
from service.client.errors import (
    BudgetSpentError,
    ClientError,
    DeadlineError,
    DeniedError,
    FaultError,
    OverloadedError,
    Place,
    ProblemError,
    RequestError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from service.client.retry import Retry
from service.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "BatchAnswer",
    "BudgetSpentError",
    "CallOptions",
    "Client",
    "ClientError",
    "DeadlineError",
    "Degraded",
    "DeniedError",
    "EmbedAnswer",
    "FaultError",
    "Hit",
    "OverloadedError",
    "Place",
    "ProblemError",
    "RequestError",
    "Result",
    "Retry",
    "SearchAnswer",
    "SearchItem",
    "SearchOptions",
    "TooLargeError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnreachableError",
]
