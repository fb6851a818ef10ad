"""The bodies of operators' requests and answers, as types; as ``service.api.schemas``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, model_validator

from service.api.ops_schemas import StatusModel
from service.api.schemas import Answer, Body, Text
from service.settings import MOST_K


class ReasonBody(Body):
    """Why an operator wants something else."""

    why: str = Field("", max_length=500, description="Goes into the registry's history.")


class ActivateBody(ReasonBody):
    """Why an operator wants a snapshot served."""

    force: bool = Field(False, description="Serve it even if checks of the gate fail that can be forced; needs a reason.")

    @model_validator(mode="after")
    def _reasoned(self) -> ActivateBody:
        if self.force and not self.why.strip():
            raise ValueError("force needs why: the reason goes into the registry's history")
        return self


class RollbackBody(ActivateBody):
    """Why an operator wants the snapshot back that was wanted before; by force also without saying so, if it last was."""


class TryBody(ActivateBody):
    """Why an operator wants a snapshot served by one instance alone, and for how long."""

    seconds: float = Field(
        900.0, gt=0, le=86_400, allow_inf_nan=False, description="After so long what the registry wants is served again."
    )


class VerdictModel(Answer):
    """What came of an attempt of a snapshot to pass the gate, in this instance."""

    at: datetime
    accepted: bool = Field(description="It was let through.")
    passed: bool = Field(description="Every check passed.")
    forced: bool = Field(description="Some did not, and an operator had it served all the same.")
    failed_checks: list[str]


class CheckModel(Answer):
    """One check of the gate."""

    name: str
    value: float | str | None = Field(description="What was found; null where nothing was measured, as detail says.")
    limit: float | str | None = Field(description="What it is compared with.")
    passed: bool = Field(description="Within the limit, or not applicable.")
    forcible: bool = Field(description="Whether activate with force goes past it.")
    detail: str


class GateReportModel(VerdictModel):
    """An attempt with its checks."""

    snapshot: str
    checks: list[CheckModel]
    against: str | None = Field(description="The snapshot that it was compared with; null where none served.")
    why: str = Field(description="The operator's reason to force it.")
    code: str | None = Field(description="Of the error that refused it.")
    reason: str | None = Field(description="Why it was refused.")
    seconds: float = Field(description="That the inspection took.")


class GateResponse(GateReportModel):
    """The last attempt of a snapshot in this instance, and those before it."""

    earlier: list[GateReportModel] = Field(description="Latest first.")
    running: bool = Field(description="It is being tried once more: that attempt's report is not among these yet.")


class SnapshotModel(Answer):
    """A snapshot of the registry."""

    id: str
    name: str
    parent: str | None = Field(description="The snapshot that it was made from incrementally.")
    created_at: str
    age_seconds: int
    documents: int
    space: str = Field(description="Fingerprint of the document tower's space.")
    dim: int
    index: str
    precision: str
    bytes: int
    retained: float | None = Field(description="Share of the teacher's quality that is kept; null where it was not measured.")
    desired: bool
    serving: bool
    open: bool = Field(description="It serves, or did before and is kept open: it can be searched for comparison.")
    gate: VerdictModel | None = Field(description="The last verdict in this instance; null where it was not tried here.")


class SwapStepModel(Answer):
    """A step of a swap."""

    name: str
    seconds: float = Field(description="That it took, or has taken so far.")
    running: bool


class SwapResponse(StatusModel):
    """The last swap, done or not."""

    since: datetime = Field(description="When the state was entered.")
    running: bool = Field(description="A step goes on.")
    snapshot: str | None = Field(description="What the steps are about; null where there was no attempt yet.")
    began_at: datetime | None = Field(description="When the first step began.")
    steps: list[SwapStepModel]
    next_attempt_seconds: float | None = Field(description="Until what failed is tried again; null where nothing waits.")


class DifferenceModel(Answer):
    """A fact of two manifests."""

    name: str
    first: str | int | float | None
    second: str | int | float | None
    equal: bool


class DifferencesResponse(Answer):
    """What the manifests of two snapshots say, side by side."""

    first: str
    second: str
    facts: list[DifferenceModel]


class SnapshotsResponse(StatusModel):
    """The registry, newest first, and what serves."""

    snapshots: list[SnapshotModel]
    unreadable: dict[str, str] = Field(description="Snapshots whose manifest cannot be read, with the reason.")


class CompareBody(Body):
    """A search of one open snapshot, both approximately and exactly."""

    query: Text
    k: int = Field(10, ge=1, le=MOST_K, description="Hits to return; at most max_k of /info.")
    filter: dict[str, Any] | None = Field(None, description="As of /search.")
    effort: int | None = Field(None, ge=0, description="A row of the snapshot's effort table; null for its default.")


class ComparedHitModel(Answer):
    """A document that one of the two found."""

    id: str
    score: float
    rank: int | None = Field(description="In approximate search, from 1; null where it was missed.")
    exact_rank: int | None = Field(description="In exact search, from 1; null where it is beyond ten times k.")
    fields: dict[str, str | int | float | bool | None]


class CompareResponse(Answer):
    """Approximate search against exact search of one snapshot."""

    snapshot: str
    effort: int
    exact: bool = Field(description="The index compared with every eligible document by itself, where a filter leaves few.")
    expected_recall: float = Field(description="Recall@10 of this effort, as measured when the snapshot was made.")
    recall: float | None = Field(description="Share of the k exact hits that were found; null where there are none.")
    hits: list[ComparedHitModel] = Field(description="Found approximately, best first.")
    missed: list[ComparedHitModel] = Field(description="Of the k exact hits, those that were not found.")
    timings_ms: dict[str, float] = Field(description="encode (with tokenizing), filter, search, exact, fetch.")
