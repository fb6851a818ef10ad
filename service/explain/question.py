"""What is asked of ``explain``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from service.errors import FieldError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of ``explain``; InvalidRequestError where /search would refuse the query.

    Attributes:
        filter: as the body of /search has it.
        effort: of the snapshot's table; None for its default.
        timeout_ms: budget of the search; None for the service's default.
    """

    query: str
    k: int = 10
    filter: dict[str, Any] | None = None
    effort: int | None = None
    timeout_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise InvalidRequestError(FieldError("query", "is empty or blank"))


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """A filter as it is typed; InvalidRequestError where it is no JSON object."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(FieldError("filter", f'not JSON ({error}); such as \'{{"kind": "method"}}\'')) from error
    if not isinstance(found, dict):
        raise InvalidRequestError(FieldError("filter", 'not a JSON object; such as \'{"kind": "method"}\''))
    return found
