"""Settings of what is measured on live queries beside answering them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings


class LiveSettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    live_recall_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of live searches that are searched again exactly, on spare time, for the metric live_recall; 0: off.",
    )
    live_teacher_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description=(
            "Share of live searches that the teacher's query tower encodes too, where the snapshot carries it; 0: off, and the "
            "teacher is not opened."
        ),
    )
    live_cpu_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Of one core, that both may take while the service is idle, and a tenth of it while requests keep it busy.",
    )
    live_window: int = Field(
        1000, ge=10, le=100_000, description="Latest measured searches that the gauges of both are means of."
    )
    live_worst_queries: int = Field(
        0,
        ge=0,
        le=100_000,
        description=(
            "Queries that are kept because student and teacher agree least on them, for the next distillation; operators can "
            "read them. 0: none."
        ),
    )
    live_worst_queries_file: Path | None = Field(
        None,
        description=(
            "JSONL file that these queries are written to, as offline's --query-log reads it, beside the worst of those that it "
            "holds already; unset: in memory only."
        ),
    )

    @model_validator(mode="after")
    def _live_fits(self) -> Self:
        if self.live_worst_queries_file is not None and not self.live_worst_queries:
            raise ValueError("live_worst_queries_file needs live_worst_queries: say how many are kept")
        return self
