"""What the service promises: objectives as settings, which it exports, so that rules and dashboards hold no figures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

Objective = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class SloSettings(BaseSettings):
    """Objectives; each is compared with a metric by an alert of deploy/prometheus/rules."""

    slo_availability: Objective = Field(
        0.999, description="Share of admitted requests that are to be answered without a fault of the service (5xx but 504)."
    )
    slo_in_budget: Objective = Field(
        0.99, description="Share of admitted requests that are to be answered within their own budget."
    )
    slo_recall: Objective = Field(0.9, description="Recall@k that live searches are to have against exact search.")
    slo_overlap: Objective = Field(
        0.6,
        description="Share of hits that live queries are to have in common with the teacher's query tower; below, they drift.",
    )
    slo_snapshot_age_seconds: float = Field(
        0.0,
        ge=0,
        le=10**9,
        allow_inf_nan=False,
        description="Age of the snapshot that serves, since it was made, beyond which it is too old, in seconds; 0: never.",
    )
