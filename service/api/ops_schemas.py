"""What the routes for orchestrators, Prometheus and people answer, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.schemas import Answer


class LiveResponse(Answer):
    """The process answers."""

    status: Literal["alive"]


class ReadyResponse(Answer):
    """A snapshot is being served."""

    status: Literal["ready"]
    snapshot: str
    checks: dict[str, str] | None = Field(None, description="With ?verbose.")


class FailureModel(Answer):
    """Why what is wanted is not served."""

    snapshot: str | None
    code: str
    reason: str
    at: str
    attempts: int


class StatusModel(Answer):
    """What operators want, what serves, and what is being done about the difference."""

    desired: str | None
    serving: str | None
    state: str
    last_error: FailureModel | None


class ProofFailureModel(Answer):
    """The last proof of what serves, which failed."""

    code: str
    reason: str
    at: str


class ProofModel(Answer):
    """What the golden queries showed when the snapshot was loaded."""

    queries: int
    k: int
    max_cosine_distance: float
    recall: float
    failure: ProofFailureModel | None = Field(description="Of the last proof since then; null where it did not fail.")


class BatchSizeModel(Answer):
    """What company gains for queries of up to so many tokens."""

    tokens: int
    rows: int = Field(description="Queries of one length that go through the query tower together; 1: each goes alone.")
    gain: float = Field(description="Time per query alone over its time in such company.")


class RemoteModel(Answer):
    """How it stands with the remote registry."""

    url: str
    state: str = Field(description="following, pulling or failing.")
    desired: str | None = Field(description="What is wanted there, as last seen.")
    succeeded_at: str | None = Field(description="When what is wanted there was last seen to be here; UTC.")
    code: str | None = Field(description="Of the last failure; null while it works.")
    reason: str | None


class TrialModel(Answer):
    """A snapshot that this instance alone is to serve, ahead of the registry."""

    snapshot: str
    instead_of: str | None = Field(description="What the registry wanted when it began; the trial ends when it wants another.")
    who: str
    why: str
    ends_in_seconds: float


class EngineModel(Answer):
    """The server that keeps the vectors of what serves."""

    state: str = Field(description="closed: searches go there; open: each is refused at once; half_open: a probe is under way.")
    code: str | None = Field(description="Of the last failure; null while it is closed.")
    reason: str | None


class InfoResponse(StatusModel):
    """What runs."""

    version: str
    instance: str = Field(description="Of this process: another one after each start, and for each service.")
    in_flight: int = Field(description="Requests worked on or waiting for a thread.")
    trial: TrialModel | None
    remote: RemoteModel | None = Field(description="The registry elsewhere that is followed, if one is configured.")
    snapshot: dict[str, Any] | None = Field(description="The manifest of the snapshot that serves, without its list of files.")
    proof: ProofModel | None
    engine: EngineModel | None = Field(description="Null where the index is in this process.")
    threads: dict[str, int] = Field(description="Cores, and threads of each part; no more compute at once than there are cores.")
    batching: list[BatchSizeModel] = Field(description="Which queries are worth one call, as measured when it was loaded.")
    query_cache: dict[str, int] = Field(description="Queries that were asked before; zeros where it is off.")
    settings: dict[str, Any] = Field(description="Effective settings; none is a secret.")


class SampleModel(Answer):
    """What happened between two looks."""

    at: datetime = Field(description="When it ended.")
    seconds: float = Field(description="How long it was.")
    requests_per_second: float = Field(description="Answers of /search, refusals among them.")
    answers_per_second: float = Field(
        description="Answers of any route that works on queries, without what was refused at the door."
    )
    p50_ms: float | None = Field(description="Of the latency of /search; null without any.")
    p99_ms: float | None
    in_budget_share: float | None = Field(
        description="Of what was let in, on any route that works on queries: the share answered within its own budget."
    )
    degraded_share: dict[str, float] | None = Field(description="Of answered searches, by what was given up for want of time.")
    shed_per_second: float = Field(description="Requests refused at the door, on any route.")
    late_per_second: float = Field(description="Requests answered 504.")
    failed_per_second: float = Field(description="Requests answered 500.")
    recall: float | None = Field(description="Of live queries against exact search; null where it is not measured.")


class HistoryResponse(Answer):
    """The last fifteen minutes of this instance."""

    budget_ms: float = Field(description="The default budget.")
    interval_seconds: float
    kept_seconds: float
    samples: list[SampleModel] = Field(description="Oldest first.")
