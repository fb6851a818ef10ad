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
        if not _is_text(self.query):
            raise InvalidRequestError(FieldError("query", "is no UTF-8; the terminal's locale has to be one of UTF-8"))


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """A filter as it is typed; InvalidRequestError where it is no JSON object."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(FieldError("filter", f'not JSON ({error}); such as \'{{"kind": "method"}}\'')) from error
    if not _is_text(text):
        raise InvalidRequestError(FieldError("filter", "is no UTF-8; the terminal's locale has to be one of UTF-8"))
    if not isinstance(found, dict):
        raise InvalidRequestError(FieldError("filter", 'not a JSON object; such as \'{"kind": "method"}\''))
    return found


def _is_text(argument: str) -> bool:
    """Whether an argument was UTF-8: Python stands half a surrogate pair in for each byte that was none."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)
