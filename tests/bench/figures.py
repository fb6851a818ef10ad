"""From what was seen to figures: percentiles of loads, medians and spreads of rounds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.bench.loads import Load, Outcome

QUANTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)
"""At which a distribution is kept, in percent: enough to draw it."""
OK, REFUSED, LATE = 200, 429, 504


@dataclass(frozen=True, slots=True)
class Row:
    """What one subject showed under one load in one round.

    Attributes:
        figures: by name, which ends with the unit.
        quantiles_ms: of the latency, at ``QUANTILES``; empty where there is none.
    """

    group: str
    subject: str
    load: str
    round: int
    figures: dict[str, float]
    quantiles_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


class Rows:
    """Finds figures by what they are of."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)

    def values(self, group: str, subject: str, load: str, figure: str) -> list[float]:
        """One a round, in the order of the rounds; empty where it was not measured."""
        found = [row for row in self._rows if (row.group, row.subject, row.load) == (group, subject, load)]
        return [row.figures[figure] for row in sorted(found, key=lambda row: row.round) if figure in row.figures]

    def best(self, group: str, subject: str, figure: str, of: str) -> list[float]:
        """``of``, in each round, under the load that makes ``figure`` greatest there."""
        rounds: dict[int, Row] = {}
        for row in self._rows:
            if (row.group, row.subject) == (group, subject) and figure in row.figures:
                best = rounds.setdefault(row.round, row)
                rounds[row.round] = max(best, row, key=lambda row: row.figures[figure])
        return [rounds[number].figures[of] for number in sorted(rounds)]

    def of(self, group: str) -> list[Row]:
        """The rows of a group, in the order in which they were measured."""
        return [row for row in self._rows if row.group == group]


def of_latencies(latencies_ms: Sequence[float] | np.ndarray) -> dict[str, float]:
    """p50, p95, p99, p99.9 and the greatest; nothing where there are none."""
    if not len(latencies_ms):
        return {}
    figures = np.percentile(latencies_ms, [50, 95, 99, 99.9, 100])
    return dict(zip(("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"), map(float, figures), strict=True))


def quantiles(latencies_ms: Sequence[float] | np.ndarray) -> list[float]:
    """At ``QUANTILES``, rounded to the microsecond."""
    return [round(float(value), 3) for value in np.percentile(latencies_ms, QUANTILES)] if len(latencies_ms) else []


def of_load(load: Load, budget_ms: float, label: str = "search") -> tuple[dict[str, float], list[float]]:
    """Figures of a load's requests of that label, and the quantiles of the latency of those that were answered 200.

    Good is an answer 200 within ``budget_ms`` of the moment when it was due.
    """
    asked = [outcome for outcome in load.outcomes if outcome.label == label]
    accepted = _latencies(asked, OK)
    refused = [outcome.answer_ms for outcome in asked if outcome.status == REFUSED]
    late = _latencies(asked, LATE)
    good = sum(latency <= budget_ms for latency in accepted)
    known = len(accepted) + len(refused) + len(late)
    figures = {
        **of_latencies(accepted),
        "offered_per_second": len(asked) / load.seconds,
        "accepted_per_second": len(accepted) / load.seconds,
        "good_per_second": good / load.seconds,
        "good_share": good / len(asked),
        "refused_share": len(refused) / len(asked),
        "late_share": len(late) / len(asked),
        "failed": float(len(asked) - known),
        "client_cpu_ms": load.client_cpu_seconds * 1e3 / len(load.outcomes),
        "client_lag_p99_ms": float(np.percentile([(outcome.sent - outcome.due) * 1e3 for outcome in asked], 99)),
        **{f"refused_{name}": value for name, value in of_latencies(refused).items()},
        **{f"late_{name}": value for name, value in of_latencies(late).items()},
    }
    return figures, quantiles(accepted)


def _latencies(outcomes: Iterable[Outcome], status: int) -> list[float]:
    return [outcome.latency_ms for outcome in outcomes if outcome.status == status]
