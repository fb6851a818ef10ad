"""One call: what is sent, within which time, and how its answer is read. No input or output here."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Required, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from service.client.answers import BatchAnswer, EmbedAnswer, SearchAnswer
from service.client.errors import UnexpectedAnswerError, error_of, unsendable

A = TypeVar("A", bound=BaseModel)

_WAY_MS = 5.0
_WAY_SHARE = 0.2
_OK = 200
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"[\x21-\x7e]{1,512}")


class CallOptions(TypedDict, total=False):
    """What every call takes.

    timeout_ms: budget of the whole call, repeated attempts included; the client's own without it.
    request_id: 1 to 128 of ``A-Z a-z 0-9 . _ : / + = @ -``; made up without it.
    traceparent: W3C Trace Context of the caller, passed on.
    """

    timeout_ms: float
    request_id: str
    traceparent: str


class _Wanted(TypedDict, total=False):
    k: int
    offset: int
    filter: Mapping[str, Any]
    fields: Sequence[str]
    min_score: float
    exact: bool


class SearchOptions(_Wanted, CallOptions, total=False):
    """What a search takes besides its query; docs/api.md has their meaning."""


class SearchItem(_Wanted, total=False):
    """One search of a batch."""

    query: Required[str]


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """A request and the type of its answer.

    Attributes:
        timeout_ms: None for the client's own.
    """

    path: str
    body: Any
    answer: type[A]
    timeout_ms: float | None = None
    traceparent: str | None = None
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def content(self) -> bytes:
        """The body; raises RequestError where it, or an id, cannot be sent."""
        if not _REQUEST_ID.fullmatch(self.request_id):
            raise unsendable("request_id", "it is 1 to 128 of A-Z a-z 0-9 . _ : / + = @ -", ascii(self.request_id))
        if self.traceparent is not None and not _TRACEPARENT.fullmatch(self.traceparent):
            raise unsendable("traceparent", "it is a line of printable ASCII, as W3C Trace Context has it", self.request_id)
        try:
            return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as error:  # a surrogate, a NaN, a set
            raise unsendable(
                "body", f"it cannot be written as JSON ({type(error).__name__}: {error})", self.request_id
            ) from error

    def headers(self, remaining_ms: float) -> dict[str, str]:
        """Of an attempt for which so much of the budget is left."""
        headers = {
            "Content-Type": "application/json",
            "X-Request-ID": self.request_id,
            "Request-Timeout-Ms": f"{server_budget_ms(remaining_ms):.3f}",
        }
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        return headers

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> A:
        """The answer; raises the ``ClientError`` that it is."""
        if status != _OK:
            raise error_of(status, headers, body, self.request_id)
        try:
            return self.answer.model_validate_json(body)
        except ValidationError as error:
            raise UnexpectedAnswerError(status, headers.get("content-type", ""), self.request_id) from error


def server_budget_ms(remaining_ms: float) -> float:
    """What the service may take of the time that is left: an answer that it gives at the last moment has to arrive, too."""
    return max(0.001, remaining_ms - min(_WAY_MS, _WAY_SHARE * remaining_ms))


def search_call(query: str, options: SearchOptions) -> Call[SearchAnswer]:
    wanted: dict[str, Any] = {**options}
    common = {name: wanted.pop(name) for name in CallOptions.__annotations__ if name in wanted}
    return Call("search", {"query": query, **wanted}, SearchAnswer, **common)


def batch_call(searches: Sequence[SearchItem], options: CallOptions) -> Call[BatchAnswer]:
    return Call("search/batch", list(searches), BatchAnswer, **options)


def embed_call(texts: Sequence[str], options: CallOptions) -> Call[EmbedAnswer]:
    if isinstance(texts, str):
        raise TypeError("embed takes a list of texts; for one: embed([text])")
    return Call("embed", {"queries": list(texts)}, EmbedAnswer, **options)
