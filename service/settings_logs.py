"""Settings of the access log. How lines look, and from which severity on, is in ``service.settings``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class LogSettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    access_log: bool = Field(
        True,
        description=(
            "Whether requests leave lines in the log (docs/logs.md): failed and slow ones each, of the others a share; "
            "at level info."
        ),
    )
    access_log_sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.01,
        description=(
            "Share of the other requests that leave one, 0 to 1, chosen by trace id, so that services that sample alike keep the "
            "same traces; by request id where there is no trace."
        ),
    )
    access_log_slow_ms: Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)] | None = Field(
        None, description="From when on an answer is slow, in milliseconds; unset: half of the request's own budget."
    )
    log_queries: bool = Field(
        False,
        description=(
            "Whether these lines show the queries, cut at 256 characters, and lines about faults the messages of exceptions, "
            "which may quote one; they may say who asks and what for."
        ),
    )
