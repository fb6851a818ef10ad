"""The bodies of requests and answers, as types: what is parsed, and what the OpenAPI document says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema, model_validator

from service.errors import BodyTooLargeError, FieldError, InvalidRequestError
from service.settings import MOST_BATCH, MOST_K, MOST_WINDOW, Settings
from service.stages import Search

T = TypeVar("T")

_MOST_FIELDS = 1024
_MOST_DIMENSIONS = 1 << 16
_BEYOND_ANY_SCORE = 2.0
"""Cosines are compared in single precision, which has no 1e300."""
_MOST_KEYS = 64
"""Of a body: each unknown one is an error to pydantic, and a body has room for many."""


class Body(BaseModel):
    """Requests: no conversion of types, no unknown keys.

    Lists are limited and fail at their first wrong item, so that what a wrong body costs does not grow with its size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise ValueError(f"{len(value)} keys; there are only: {', '.join(cls.model_fields)}")
        return value


class Answer(BaseModel):
    """Answers: what is rendered, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty or blank")
    return text


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _only_queries(value: object) -> object:
    if value != "query":
        raise ValueError("only 'query' is encoded here: the document tower is not loaded")
    return value


Text = Annotated[str, AfterValidator(_not_blank), Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True)]
TimeoutMs = Annotated[FiniteFloat, Field(gt=0)] | None
_TIMEOUT = "Budget in milliseconds from the request's first byte; the least of this and the timeout headers wins."


class SearchBody(Body):
    """A search by text."""

    query: Text = Field(examples=["join two paths together"])
    k: int = Field(10, ge=1, le=MOST_K, description="Hits to return; at most max_k of /info.")
    offset: int = Field(0, ge=0, le=MOST_WINDOW, description="Hits to skip; offset + k is at most max_window of /info.")
    filter: dict[str, Any] | None = Field(
        None,
        description="Mongo-style conditions over filterable columns: $eq $ne $in $nin $gt $gte $lt $lte $exists $and $or $not.",
        examples=[{"kind": "function", "$or": [{"module": "os.path"}, {"module": {"$in": ["pathlib", "shutil"]}}]}],
    )
    fields: Annotated[list[str], Field(max_length=_MOST_FIELDS, fail_fast=True)] | None = Field(
        None, description="Stored fields to return: null for all, [] for none."
    )
    timeout_ms: TimeoutMs = Field(None, description=_TIMEOUT)
    min_score: FiniteFloat | None = Field(None, description="Leave out hits with a lower score (cosine, -1 to 1).")
    exact: bool = Field(False, description="Compare with every document instead of searching the index approximately.")

    def search(self) -> Search:
        """What the pipeline runs."""
        fields = None if self.fields is None else tuple(self.fields)
        least = None if self.min_score is None else min(max(self.min_score, -_BEYOND_ANY_SCORE), _BEYOND_ANY_SCORE)
        return Search(self.query, self.k, self.offset, self.filter, fields, least, self.exact)


BatchBody = Annotated[list[SearchBody], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True)]
"""Searches, answered in order."""


class EmbedBody(Body):
    """Texts for the query tower: ``query`` for one, ``queries`` for several."""

    query: Text | None = None
    queries: Texts | None = Field(None, description="At most max_batch of /info.")
    input_type: Annotated[Literal["query"], BeforeValidator(_only_queries)] = Field(
        "query", description="The document tower is not loaded: only queries are encoded."
    )
    timeout_ms: TimeoutMs = Field(None, description=_TIMEOUT)

    @model_validator(mode="after")
    def _either(self) -> EmbedBody:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query (a text) or queries (a list of texts)")
        return self

    def texts(self) -> list[str]:
        return self.queries if self.queries is not None else [self.query or ""]


_OneOrMore = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_BATCH}]}
)


class OpenAIEmbedBody(Body):
    """OpenAI's embeddings request."""

    input: Annotated[Texts, BeforeValidator(_listed), _OneOrMore] = Field(
        description="A text or a list of texts; lists of token ids are not accepted."
    )
    model: str = Field(description="Any name: the one query tower that is loaded answers, and the response names its snapshot.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    dimensions: Annotated[int, Field(ge=1, le=_MOST_DIMENSIONS)] | None = Field(
        None, description="Refused unless it is the tower's own width."
    )
    user: str | None = Field(None, description="Accepted and ignored.")


class HitModel(Answer):
    """A document that was found."""

    id: str
    score: float = Field(description="Cosine of query and document.")
    fields: dict[str, str | int | float | bool | None] | None = Field(
        description="Stored fields; null where they were left out for want of time (see degraded)."
    )


class DegradedModel(Answer):
    """What was given up to answer in time."""

    causes: list[Literal["deadline_effort", "deadline_fields"]]
    expected_recall: float = Field(description="Recall@10 of the search effort used, as measured when the snapshot was made.")


class ResultModel(Answer):
    """The answer to one search of a batch."""

    hits: list[HitModel] = Field(description="Best first.")
    degraded: DegradedModel | None = Field(description="null: nothing was given up.")
    truncated: bool = Field(description="The query was longer than the tower reads; its end was left out.")


class _Served(Answer):
    snapshot: str = Field(description="The snapshot that answered.")
    timings_ms: dict[str, float] = Field(description="By stage; total counts from the request's first byte.")
    request_id: str


class SearchResponse(_Served, ResultModel):
    """The answer to a search."""


class BatchResponse(_Served):
    """The answers to the searches of a batch, in their order."""

    results: list[ResultModel]


class EmbedResponse(_Served):
    """Vectors of the query tower, L2-normalised, one for each text in its order."""

    vectors: list[list[float]]
    dim: int
    tokens: list[int] = Field(description="Tokens read of each text, special tokens included.")
    truncated: list[bool] = Field(description="Whether a text was longer than the tower reads.")


class OpenAIEmbedding(Answer):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(Answer):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbedResponse(Answer):
    """OpenAI's embeddings response."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str = Field(description="The snapshot that answered.")
    usage: OpenAIUsage


class FieldErrorModel(Answer):
    """One thing wrong with a request."""

    path: str
    message: str


class Problem(Answer):
    """Every error of every route, as application/problem+json (RFC 9457)."""

    type: str = Field(description="urn:scalingnote:problem:CODE.")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do.")
    code: str = Field(description="Stable name of the error.")
    request_id: str
    errors: list[FieldErrorModel] | None = Field(None, description="422: each place that is wrong.")
    retry_after_ms: float | None = Field(None, description="429 and 503: when to try again.")
    spent_ms: dict[str, float] | None = Field(None, description="504: where the budget went.")


class OpenAIErrorDetail(Answer):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(Answer):
    """OpenAI's error body, on every route under /v1."""

    error: OpenAIErrorDetail


def check_batch(size: int, settings: Settings, path: str) -> None:
    """InvalidRequestError where a batch is larger than the settings allow."""
    if size > settings.max_batch:
        raise InvalidRequestError(FieldError(path, f"{size} items; at most {settings.max_batch} (max_batch)"))


def check_hits(batch: Sequence[SearchBody], settings: Settings, path: str) -> None:
    """InvalidRequestError where the searches of a batch ask for more hits together than the settings allow."""
    hits = sum(body.k for body in batch)
    if hits > settings.max_batch_hits:
        message = f"the items ask for {hits} hits together; at most {settings.max_batch_hits} (max_batch_hits)"
        raise InvalidRequestError(FieldError(path, message))


def check_text(text: str, settings: Settings, path: str) -> None:
    """BodyTooLargeError where a text is longer than the settings allow, whatever else is in the body."""
    size = len(text.encode())
    if size > settings.max_query_bytes:
        raise BodyTooLargeError(f"{path}: a text of {size} bytes; at most {settings.max_query_bytes} (max_query_bytes)")


def check_window(body: SearchBody, settings: Settings, prefix: str = "") -> None:
    """InvalidRequestError where ``k`` or ``offset`` are beyond the settings."""
    if body.k > settings.max_k:
        raise InvalidRequestError(FieldError(f"{prefix}k", f"{body.k}; at most {settings.max_k} (max_k)"))
    if body.offset + body.k > settings.max_window:
        message = f"offset + k is {body.offset + body.k}; at most {settings.max_window} (max_window)"
        raise InvalidRequestError(FieldError(f"{prefix}offset", message))
