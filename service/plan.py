"""From the time that is left to a search plan: the degradation ladder. Pure, so that tables can test it.

The ladder, top to bottom: the default effort · less effort · no stored fields · nothing (the caller answers 504).
A rung is taken when its measured p99 fits into the time left. The last rung, which is followed only by giving up, is
tried when its median fits. There is no rung with fewer hits: a shorter answer would look like a complete one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from snapshot.manifest import Effort, Index

Cause = Literal["deadline_effort", "deadline_fields"]
"""What was given up for want of time: search effort, stored fields."""

CAUSES: tuple[Cause, ...] = get_args(Cause)
FETCH_MS = 0.5
FETCH_MS_PER_HIT = 0.01
"""Set aside for reading stored fields: above the medians measured on two busy cores, 0.2 ms for 10 rows, 8 ms for 1,000."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How one search is done.

    Attributes:
        effort: a row of the snapshot's effort table.
        exact: compare with every eligible row, whatever the effort.
        with_fields: read the stored fields of the hits.
        causes: what was given up, and why; empty where nothing was.
        expected_recall: recall@10 against exact search, as measured when the snapshot was made.
    """

    effort: int
    exact: bool
    with_fields: bool
    causes: tuple[Cause, ...]
    expected_recall: float


def plan_search(remaining_ms: float, index: Index, k: int, *, exact: bool, fields: bool) -> SearchPlan | None:
    """The highest rung of the ladder that fits into ``remaining_ms``, or None where none does.

    Exact search was asked for by name and its cost is not in the effort table, so only its fields can be given up.

    Args:
        remaining_ms: until the deadline.
        index: carries the effort table.
        k: hits to return.
        exact: the request asks for exact search.
        fields: the request asks for stored fields.
    """
    fetch_ms = FETCH_MS + k * FETCH_MS_PER_HIT if fields else 0.0
    rungs = _exact_rungs(index, fetch_ms, fields) if exact else _rungs(index, fetch_ms, fields)
    return next((plan for cost_ms, plan in rungs if cost_ms <= remaining_ms), None)


def _rungs(index: Index, fetch_ms: float, fields: bool) -> Iterator[tuple[float, SearchPlan]]:
    allowed = [row for row in index.efforts if row.effort <= index.default_effort] or [index.efforts[0]]
    for row in reversed(allowed):
        causes: tuple[Cause, ...] = ("deadline_effort",) if row is not allowed[-1] else ()
        yield row.p99_ms + fetch_ms, _plan(row, fields, causes)
    least, causes = allowed[0], ("deadline_effort",) if len(allowed) > 1 else ()
    yield least.p50_ms, _plan(least, with_fields=False, causes=(*causes, "deadline_fields") if fields else causes)


def _exact_rungs(index: Index, fetch_ms: float, fields: bool) -> Iterator[tuple[float, SearchPlan]]:
    effort = index.default_effort
    yield fetch_ms, SearchPlan(effort, exact=True, with_fields=fields, causes=(), expected_recall=1.0)
    causes: tuple[Cause, ...] = ("deadline_fields",) if fields else ()
    yield 0.0, SearchPlan(effort, exact=True, with_fields=False, causes=causes, expected_recall=1.0)


def _plan(row: Effort, with_fields: bool, causes: tuple[Cause, ...]) -> SearchPlan:
    return SearchPlan(row.effort, exact=False, with_fields=with_fields, causes=causes, expected_recall=row.recall_at_10)
