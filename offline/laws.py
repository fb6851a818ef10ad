"""The laws that ``offline scaling`` fits to its points, how sure they are, and its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from offline import plots_grid
from offline.bootstrap import Interval, Values, mean_interval
from offline.findings import Goal
from offline.markdown import estimate, table
from offline.power_law import PowerLaw, fit, r_squared
from offline.scaling import Point
from snapshot.files import write_text

_PERCENTILES = (2.5, 97.5)
_GOAL_R2, _GOAL_ERROR = 0.95, 0.05
PAGE = "scaling.md"


class Measured(BaseModel):
    """A point with the intervals of its means over the queries."""

    model_config = ConfigDict(frozen=True)

    name: str
    parameters: int
    pairs: int
    entropy: Interval
    ndcg: Interval


class Held(BaseModel):
    """A point that the law was not fitted to, and what the law says of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    measured: float
    predicted: Interval

    @property
    def error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted.estimate - self.measured) / self.measured


class Law(BaseModel):
    """L(x) = (x0 / x)^exponent + offset of the contrastive entropy, fitted to all points but those held out.

    Intervals come from refitting on resampled queries: they hold for other queries, not for other seeds of the training.
    """

    model_config = ConfigDict(frozen=True)

    x: str
    points: int
    x0: Interval
    exponent: Interval
    offset: Interval
    r_squared: float
    held: Held | None


class Report(BaseModel):
    """The content of ``scaling.json``."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    queries: int
    sizes: tuple[Measured, ...]
    shares: tuple[Measured, ...]
    laws: tuple[Law, ...]
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class _Fitted:
    law: Law
    curve: PowerLaw


def write_report(recipe: str, sizes: Sequence[Point], shares: Sequence[Point], resamples: int, seed: int, folder: Path) -> Report:
    """Fit both laws, the largest size held out of the first; write ``scaling.md``, ``scaling.json`` and the plots."""
    ordered = sorted(sizes, key=lambda point: point.parameters)
    by_size = _law("N", ordered[:-1], ordered[-1], lambda point: point.parameters, resamples, seed)
    data = sorted(shares, key=lambda point: point.pairs)
    by_data = _law("D", data, None, lambda point: point.pairs, resamples, seed)
    report = Report(
        recipe=recipe,
        queries=len(ordered[0].entropy),
        sizes=tuple(_measured(point, resamples, seed) for point in ordered),
        shares=tuple(_measured(point, resamples, seed) for point in data),
        laws=(by_size.law, by_data.law),
        goals=tuple(_goals(by_size.law, by_data.law)),
    )
    write_text(folder / "scaling.json", report.model_dump_json(indent=2))
    plots_grid.draw_law(report.sizes, by_size.curve, "parameters", ordered[-1].name, folder / "scaling-size.png")
    plots_grid.draw_law(report.shares, by_data.curve, "pairs", None, folder / "scaling-data.png")
    write_text(folder / PAGE, page(report))
    return report


def _law(
    name: str, points: Sequence[Point], held: Point | None, size: Callable[[Point], int], resamples: int, seed: int
) -> _Fitted:
    x = np.array([size(point) for point in points], np.float64)
    values = np.stack([point.entropy for point in points])
    curve = fit(x, values.mean(axis=1))
    random = np.random.default_rng(seed)
    count = values.shape[1]
    draws = [fit(x, values[:, random.integers(0, count, count)].mean(axis=1)) for _ in range(resamples)]
    law = Law(
        x=name,
        points=len(points),
        x0=_interval(curve.x0, [one.x0 for one in draws]),
        exponent=_interval(curve.exponent, [one.exponent for one in draws]),
        offset=_interval(curve.offset, [one.offset for one in draws]),
        r_squared=r_squared(curve, x, values.mean(axis=1)),
        held=None if held is None else _held(held, size(held), curve, draws),
    )
    return _Fitted(law, curve)


def _held(point: Point, x: float, curve: PowerLaw, draws: Sequence[PowerLaw]) -> Held:
    place = np.array([x], np.float64)
    predicted = _interval(float(curve.at(place)[0]), [float(one.at(place)[0]) for one in draws])
    return Held(name=point.name, measured=float(point.entropy.mean()), predicted=predicted)


def _interval(value: float, draws: Sequence[float]) -> Interval:
    low, high = np.percentile(draws, _PERCENTILES)
    return Interval(value, float(low), float(high))


def _measured(point: Point, resamples: int, seed: int) -> Measured:
    def interval(values: Values) -> Interval:
        return mean_interval(values, resamples, seed)

    return Measured(
        name=point.name,
        parameters=point.parameters,
        pairs=point.pairs,
        entropy=interval(point.entropy),
        ndcg=interval(point.ndcg),
    )


def _goals(by_size: Law, by_data: Law) -> list[Goal]:
    """Goals are figures that should be at least their bound: an error of 0.05 is an accuracy of 0.95."""
    goals = [
        Goal(name="scaling_size_r2", figure=by_size.r_squared, bound=_GOAL_R2),
        Goal(name="scaling_data_r2", figure=by_data.r_squared, bound=_GOAL_R2),
    ]
    if by_size.held is not None:
        goals.append(Goal(name="scaling_held_out_accuracy", figure=1 - by_size.held.error, bound=1 - _GOAL_ERROR))
    return goals


def page(report: Report) -> str:
    """The Markdown page."""
    header = ["tower", "parameters", "pairs", "contrastive entropy", "nDCG@10"]
    parts = [
        f"# {report.recipe}: how quality grows with the tower and with data",
        (
            f"Contrastive entropy (nats, lower is better) and nDCG@10 on {report.queries:,} dev queries; parameters of one tower "
            "without embeddings; 95% bootstrap intervals over the queries. One seed a point: the noise of training is not in it."
        ),
        "## Towers, all data",
        table(header, [_row(one) for one in report.sizes]),
        "![Contrastive entropy over the size of the tower](scaling-size.png)",
        "## Data, one tower",
        table(header, [_row(one) for one in report.shares]),
        "![Contrastive entropy over training pairs](scaling-data.png)",
        "## Laws",
        *(describe(law) for law in report.laws),
        "```\n" + "\n".join(goal.describe() for goal in report.goals) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _row(one: Measured) -> list[str]:
    return [one.name, f"{one.parameters:,}", f"{one.pairs:,}", estimate(one.entropy), estimate(one.ndcg)]


def describe(law: Law) -> str:
    """The law in words and figures."""
    said = (
        f"L({law.x}) = ({law.x0.estimate:.4g} / {law.x})^{law.exponent.estimate:.3f} + {law.offset.estimate:.3f}, fitted to "
        f"{law.points} points with R² = {law.r_squared:.4f}; exponent [{law.exponent.low:.3f}, {law.exponent.high:.3f}], offset "
        f"[{law.offset.low:.3f}, {law.offset.high:.3f}]."
    )
    if law.held is None:
        return f"{said} Nothing was held out."
    held = law.held
    return (
        f"{said} Held out: {held.name}, the largest. Predicted {held.predicted.estimate:.4f} [{held.predicted.low:.4f}, "
        f"{held.predicted.high:.4f}], measured {held.measured:.4f}: {held.error:.1%} off."
    )
