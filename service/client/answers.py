"""What the service answers, as types. Keys that a later service adds are ignored, so that it can be newer than its clients."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Hit(_Answer):
    """A document that was found.

    Attributes:
        score: cosine of query and document, -1 to 1.
        fields: stored fields; None where they were left out for want of time.
    """

    id: str
    score: float
    fields: dict[str, str | int | float | bool | None] | None


class Degraded(_Answer):
    """What was given up to answer in time.

    Attributes:
        expected_recall: recall@10 of the search effort used, as measured when the snapshot was made.
    """

    causes: list[str]
    expected_recall: float


class Result(_Answer):
    """The hits of one search, best first.

    Attributes:
        degraded: None where nothing was given up.
        truncated: whether the query was longer than the tower reads.
    """

    hits: list[Hit]
    degraded: Degraded | None
    truncated: bool


class _Served(_Answer):
    """Attributes:
    snapshot: id of the snapshot that answered.
    timings_ms: by stage; ``total`` counts from the request's first byte.
    """

    snapshot: str
    timings_ms: dict[str, float]
    request_id: str


class SearchAnswer(_Served, Result):
    """The answer to a search."""


class BatchAnswer(_Served):
    """The answers to the searches of a batch, in their order, all from one snapshot."""

    results: list[Result]


class EmbedAnswer(_Served):
    """Vectors of the query tower, L2-normalised, one for each text in its order.

    Attributes:
        vectors: ``dim`` numbers for each text.
        tokens: tokens read of each text, special tokens included.
        truncated: whether a text was longer than the tower reads.
    """

    vectors: list[list[float]]
    dim: int
    tokens: list[int]
    truncated: list[bool]
