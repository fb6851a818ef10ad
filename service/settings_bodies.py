"""Settings of what bodies may take together."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class BodySettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    max_receipt_bytes: int | None = Field(
        None,
        ge=1024,
        le=1 << 40,
        description=(
            "Most memory for bodies that are not complete yet, over all connections, in bytes; beyond, the one that has been on "
            "its way for longest gets 503. Unset: 64 times max_batch_body_bytes; never less than that once."
        ),
    )
