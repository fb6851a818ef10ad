"""The keys of a file as people and machines see them: without their hashes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from service.keys.file import ApiKey, read_keys
from snapshot.cli import print_table


def described(file: Path) -> str:
    """As JSON; KeysFileError as ``read_keys``."""
    return json.dumps([_facts(key) for key in read_keys(file)], indent=2)


def show(file: Path, now: datetime) -> None:
    """As a table on standard output; KeysFileError as ``read_keys``."""
    print_table(("name", "scopes", "rate", "burst", "until"), (_cells(key, now) for key in read_keys(file)))


def _facts(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "rate_per_second": key.rate_per_second,
        "burst": None if key.rate_per_second is None else key.burst,
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
    }


def _cells(key: ApiKey, now: datetime) -> tuple[str, ...]:
    limited = key.rate_per_second is not None
    until = "revoked" if key.expires_at is None else f"{key.expires_at.isoformat()}{' (over)' if key.expires_at <= now else ''}"
    rate = f"{key.rate_per_second:g}/s" if limited else "any"
    return (key.name, ", ".join(key.scopes), rate, str(key.burst) if limited else "", until)
