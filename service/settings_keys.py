"""Settings of who may search."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class KeySettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    api_keys_file: Path | None = Field(
        None,
        description=(
            "File with the hashes of the API keys that /search, /search/batch, /embed and /v1/embeddings want, a line each from: "
            "python -m service key new NAME. It is read again when it changes. Unset: nobody needs a key."
        ),
    )
