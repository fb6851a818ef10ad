"""Answers by route and budget: what is late depends on how long its caller would wait, and callers come and go."""

from __future__ import annotations

import math
from typing import NamedTuple

_FURTHEST = 10
_ROUNDING = 1 + 1e-6
"""A budget is the difference of two times."""


class Kind(NamedTuple):
    """Requests that are alike in what they ask for and in how long they would wait.

    Attributes:
        octave: how often the budget is twice the default one, rounded down; negative where it is less.
    """

    route: str
    octave: int


class Tally(NamedTuple):
    """Answers since the start, and those of them that were late."""

    answers: int
    late: int


class Budgets:
    """Counts on the event loop; may be read by another thread."""

    def __init__(self, default_ms: float) -> None:
        self._default_ms = default_ms
        self._counts: dict[Kind, Tally] = {}

    def answered(self, route: str, budget_ms: float, *, late: bool) -> None:
        """Count an answer."""
        octave = math.frexp(budget_ms / self._default_ms * _ROUNDING)[1] - 1
        kind = Kind(route, max(-_FURTHEST, min(_FURTHEST, octave)))
        answers, before = self._counts.get(kind, (0, 0))
        self._counts[kind] = Tally(answers + 1, before + late)

    def read(self) -> dict[Kind, Tally]:
        """All counts."""
        return self._counts.copy()  # in one step: a dictionary that grows must not be walked through
