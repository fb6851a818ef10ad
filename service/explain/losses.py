"""Where the best documents of a query were lost, step by step. Pure.

Each step has a list of the k best. The first list is the reference; a step loses what is in the reference and in the list
before it, and not in its own; it may win back what was lost before it. So the losses of all steps add up to the whole loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Step = Literal["teacher", "encoder", "int8", "quantisation", "ann", "budget", "filter"]
"""In this order. ``teacher`` is exact search with the teacher's vector; each other one adds one thing that is done for speed."""

_TIE = 1e-5
"""Scores that differ less are equal."""


@dataclass(frozen=True, slots=True)
class Stand:
    """The best rows after a step.

    Attributes:
        rows: best first, k at most.
        scores: of these.
        ranks: of rows by exact search with this step's vector, from 1, deeper than k.
        comparable: the scores are of the same vector as those of the step before.
        note: what was done, in words.
    """

    step: Step
    rows: tuple[int, ...]
    scores: tuple[float, ...]
    ranks: Mapping[int, int] = field(default_factory=dict)
    comparable: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A row of the reference that a step lost or won back.

    Attributes:
        row: of the documents.
        before: its rank in the list before the step, from 1; None where it is not in it.
        after: its rank after the step; where it was lost, by exact search, None where that is deeper than was looked.
        score: in the list that has it.
        tied: another document with the same score took its place: a tie, rather than a loss.
    """

    row: int
    before: int | None
    after: int | None
    score: float
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """What one step costs.

    Attributes:
        points: recall lost by it, as a share of 1; negative where it won more back than it lost.
        overlap: share of the reference that is left after it.
        note: what was done, in words.
    """

    step: Step
    points: float
    overlap: float
    lost: tuple[Moved, ...]
    won: tuple[Moved, ...]
    note: str = ""


def losses(stands: Sequence[Stand]) -> list[Loss]:
    """The loss of each step after the first; none where no document is eligible."""
    reference = stands[0].rows
    if not reference:
        return []
    return [_loss(before, after, reference) for before, after in itertools.pairwise(stands)]


def whole_loss(stands: Sequence[Stand]) -> float:
    """Share of the first list that the last one has not; 0 where no document is eligible."""
    reference = stands[0].rows
    return 1 - len(set(reference) & set(stands[-1].rows)) / len(reference) if reference else 0.0


def _loss(before: Stand, after: Stand, reference: Sequence[int]) -> Loss:
    was, now = set(before.rows), set(after.rows)
    lost = tuple(_lost(row, before, after) for row in reference if row in was - now)
    won = tuple(_won(row, after) for row in reference if row in now - was)
    points = (len(lost) - len(won)) / len(reference)
    return Loss(after.step, points, len(now & set(reference)) / len(reference), lost, won, after.note)


def _lost(row: int, before: Stand, after: Stand) -> Moved:
    place = before.rows.index(row)
    score = before.scores[place]
    tied = after.comparable and len(after.rows) == len(before.rows) and abs(after.scores[-1] - score) < _TIE
    return Moved(row, place + 1, after.ranks.get(row), score, tied)


def _won(row: int, after: Stand) -> Moved:
    place = after.rows.index(row)
    return Moved(row, None, place + 1, after.scores[place])
