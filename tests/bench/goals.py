"""The goals: what each is of, its bound, and whether the rows reach it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.bench.figures import Rows, Spread

Values = Callable[[Rows], list[float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure.

    Attributes:
        name: for machines; stays the same.
        what: for people.
        sense: whether the figure may be at most, or must be at least, the bound.
        values: the figure in each round; empty where it was not measured.
        of_rounds: what of the rounds is held against the bound: their median, or the worst where a promise is made to everyone.
    """

    name: str
    what: str
    sense: Literal["<=", ">="]
    bound: float
    values: Values
    of_rounds: Literal["median", "worst"] = "median"

    def judge(self, rows: Rows) -> Verdict | None:
        """None where it was not measured."""
        values = self.values(rows)
        if not values:
            return None
        spread = Spread.of(values)
        worst = spread.greatest if self.sense == "<=" else spread.least
        figure = spread.median if self.of_rounds == "median" else worst
        is_met = figure <= self.bound if self.sense == "<=" else figure >= self.bound
        return Verdict(self.name, self.what, figure, f"{self.sense}{self.bound:g}", is_met, spread.least, spread.greatest)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a goal stands."""

    name: str
    what: str
    figure: float
    bound: str
    is_met: bool
    least: float
    greatest: float

    def line(self) -> str:
        """``GOAL <name> <figure> <bound> ok|short``."""
        return f"GOAL {self.name} {self.figure:.4g} {self.bound} {'ok' if self.is_met else 'short'}"


def judge(rows: Rows, goals: Sequence[Goal]) -> list[Verdict]:
    """The verdicts on all goals that were measured."""
    return [verdict for goal in goals if (verdict := goal.judge(rows)) is not None]


def value(group: str, subject: str, load: str, figure: str) -> Values:
    """A figure as it was measured."""
    return lambda rows: rows.values(group, subject, load, figure)


def best(group: str, subject: str, figure: str) -> Values:
    """A figure under the load with the most answers."""
    return lambda rows: rows.best(group, subject, "accepted_per_second", figure)


def highest(group: str, subject: str, figure: str) -> Values:
    """The greatest that a figure reached in each round, under whatever load."""
    return lambda rows: rows.best(group, subject, figure, figure)


def ratio(above: Values, below: Values) -> Values:
    """Of two figures within each round."""
    return lambda rows: [a / b for a, b in zip(above(rows), below(rows), strict=True)]
