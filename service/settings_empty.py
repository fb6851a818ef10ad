"""What an empty value means: settings come from files that leave a variable empty where nobody has set it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import field_validator
from pydantic_settings import BaseSettings

_LOCKS = frozenset({"api_keys_file"})
"""Unset, these leave a door open: that must be meant, and not come of a variable that nobody has filled."""


class EmptySettings(BaseSettings):
    """Part of ``service.settings.Settings``: a path or anything else that may be unset is unset by an empty value."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_means_unset(cls, value: object, info: Any) -> object:
        """As docker compose makes of ``${X:-}``; ``Path("")`` would be the working directory."""
        field = cls.model_fields[info.field_name]
        if value != "":
            return value
        if field.annotation is Path:
            raise ValueError("is empty; name a path")
        if info.field_name in _LOCKS:
            raise ValueError("is empty; name a path, or leave it out where nobody shall need a key")
        return field.default if type(None) in get_args(field.annotation) else value
