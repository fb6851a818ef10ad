"""The laws that ``offline scaling`` fits to its points, how sure they are, and its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from offline import plots_grid
from offline.bootstrap import Interval, Values, difference_interval, mean_interval
from offline.errors import DataError
from offline.findings import Goal
from offline.markdown import estimate, table
from offline.power_law import PowerLaw, fit, r_squared
from offline.recipe import Recipe
from offline.scaling import Point
from snapshot.files import write_text

_PERCENTILES = (2.5, 97.5)
_GOAL_R2, _GOAL_ERROR = 0.95, 0.05
_NOTHING = 1e-9
_PARAMETERS = 3
"""Of a law: so many points it meets whatever they are."""
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
    before: float
    """Measured of the size before it: what somebody would say who knows no law."""

    @property
    def error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted.estimate - self.measured) / self.measured

    @property
    def naive_error(self) -> float:
        """The same of ``before``."""
        return abs(self.before - self.measured) / self.measured


class Law(BaseModel):
    """L(x) = (x0 / x)^exponent + offset of the contrastive entropy, fitted to all points but those held out.

    Intervals come from refitting on resampled queries: they hold for other queries, not for other seeds of the training.
    """

    model_config = ConfigDict(frozen=True)

    x: str
    points: int
    """Of different sizes."""
    falls: bool
    """Whether the entropy falls over the fitted points, by the law and from the first to the last of them."""
    x0: Interval
    exponent: Interval
    offset: Interval
    r_squared: float | None
    """None where the points do not vary."""
    unlike: bool = True
    """Whether the last of the fitted points is better than the first outside the paired intervals, by entropy and by nDCG@10."""
    unlearnt: tuple[str, ...] = ()
    """Points, the held-out one among them, that know nothing: best untrained, or no better than chance."""
    held: Held | None

    @property
    def why_not(self) -> str | None:
        """Why the points are no proof of a law; None where they may be."""
        if self.r_squared is None:
            return "no variation"
        if not self.falls:
            return f"entropy does not fall with {self.x}"
        if self.unlearnt:
            return f"learnt nothing: {', '.join(self.unlearnt)}"
        if not self.unlike:
            return f"the smallest and the largest {self.x} cannot be told apart"
        if self.points <= _PARAMETERS:
            return f"{self.points} different sizes for {_PARAMETERS} parameters"
        return None


class Report(BaseModel):
    """The content of ``scaling.json``."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    split: str
    queries: int
    sizes: tuple[Measured, ...]
    shares: tuple[Measured, ...]
    laws: tuple[Law, ...]
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class _Fitted:
    law: Law
    curve: PowerLaw


def write_report(recipe: Recipe, sizes: Sequence[Point], shares: Sequence[Point], folder: Path) -> Report:
    """Fit both laws, the largest size held out of the first; write ``scaling.md``, ``scaling.json`` and the plots.

    Raises:
        DataError: too few different sizes for a law.
    """
    resamples, seed = recipe.scaling.bootstrap, recipe.scaling.seed
    ordered = sorted(sizes, key=lambda point: point.parameters)
    by_size = _law("N", ordered[:-1], ordered[-1], lambda point: point.parameters, resamples, seed)
    data = sorted(shares, key=lambda point: point.pairs)
    by_data = _law("D", data, None, lambda point: point.pairs, resamples, seed)
    report = Report(
        recipe=recipe.name,
        split=ordered[0].split,
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
    if len(set(x.tolist())) < _PARAMETERS:
        raise DataError(f"L({name}): {len(set(x.tolist()))} different sizes, of which a law needs {_PARAMETERS}; give others")
    values = np.stack([point.entropy for point in points])
    means = values.mean(axis=1)
    curve = fit(x, means)
    random = np.random.default_rng(seed)
    count = values.shape[1]
    draws = [fit(x, values[:, random.integers(0, count, count)].mean(axis=1)) for _ in range(resamples)]
    law = Law(
        x=name,
        points=len(set(x.tolist())),
        falls=bool(curve.scale > 0 and means[-1] < means[0]),
        x0=_interval(curve.x0, [one.x0 for one in draws]),
        exponent=_interval(curve.exponent, [one.exponent for one in draws]),
        offset=_interval(curve.offset, [one.offset for one in draws]),
        unlike=_are_unlike(points[0], points[-1], resamples, seed),
        unlearnt=tuple(each.name for each in (*points, *([held] if held is not None else [])) if not each.knows_something),
        r_squared=r_squared(curve, x, means) if np.ptp(means) > _NOTHING else None,
        held=None if held is None else _held(held, size(held), float(means[-1]), curve, draws),
    )
    return _Fitted(law, curve)


def _are_unlike(first: Point, last: Point, resamples: int, seed: int) -> bool:
    by_entropy = difference_interval(first.entropy, last.entropy, resamples, seed)
    return by_entropy.low > 0 and difference_interval(last.ndcg, first.ndcg, resamples, seed).low > 0


def _held(point: Point, x: float, before: float, curve: PowerLaw, draws: Sequence[PowerLaw]) -> Held:
    place = np.array([x], np.float64)
    predicted = _interval(float(curve.at(place)[0]), [float(one.at(place)[0]) for one in draws])
    return Held(name=point.name, measured=float(point.entropy.mean()), predicted=predicted, before=before)


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
        Goal(name=f"scaling_{name}_r2", figure=law.r_squared or 0.0, bound=_GOAL_R2, why=law.why_not)
        for name, law in (("size", by_size), ("data", by_data))
    ]
    held = by_size.held
    if held is not None:
        beaten = "no nearer than the size before it" if held.error >= held.naive_error else None
        accuracy, bound = 1 - held.error, 1 - _GOAL_ERROR
        goals.append(Goal(name="scaling_held_out_accuracy", figure=accuracy, bound=bound, why=by_size.why_not or beaten))
    return goals


_BY_DEV = " Each tower's weights are the best of its training on dev."


def page(report: Report) -> str:
    """The Markdown page."""
    header = ["tower", "parameters", "pairs", "contrastive entropy", "nDCG@10"]
    parts = [
        f"# {report.recipe}: how quality grows with the tower and with data",
        (
            f"Contrastive entropy (nats, lower is better) and nDCG@10 on {report.queries:,} {report.split} queries; parameters "
            "of one tower without embeddings; 95% bootstrap intervals over the queries. One seed a point: the noise of training "
            f"is not in it.{_BY_DEV if report.split == 'dev' else ''}"
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
    explained = f"R² = {law.r_squared:.4f}" if law.r_squared is not None else "no variation to explain"
    said = (
        f"L({law.x}) = ({law.x0.estimate:.4g} / {law.x})^{law.exponent.estimate:.3f} + {law.offset.estimate:.3f}, fitted to "
        f"{law.points} points with {explained}; exponent [{law.exponent.low:.3f}, {law.exponent.high:.3f}], offset "
        f"[{law.offset.low:.3f}, {law.offset.high:.3f}]."
    )
    if law.held is None:
        return f"{said} Nothing was held out."
    held = law.held
    return (
        f"{said} Held out: {held.name}, the largest. Predicted {held.predicted.estimate:.4f} [{held.predicted.low:.4f}, "
        f"{held.predicted.high:.4f}], measured {held.measured:.4f}: {held.error:.1%} off; the size before it, {held.before:.4f}, "
        f"is {held.naive_error:.1%} off."
    )
