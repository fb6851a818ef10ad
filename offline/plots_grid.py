"""Pictures of ``offline scaling`` and ``offline ablate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from offline.bootstrap import Interval
from offline.plots import BASELINE, INK, SERVED, STUDENT, TEACHER, figure_of, save, whiskers
from offline.power_law import PowerLaw


class Measured(Protocol):
    """What a point of a law is drawn from."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def pairs(self) -> int: ...
    @property
    def entropy(self) -> Interval: ...


def draw_law(points: Sequence[Measured], law: PowerLaw, x: Literal["parameters", "pairs"], held: str | None, path: Path) -> None:
    """Contrastive entropy over the size, with the law; ``held`` names the point that it was not fitted to."""
    figure, (axis,) = figure_of(7.5, 4.4)
    places = np.array([getattr(point, x) for point in points], np.float64)
    smooth = np.geomspace(places.min() / 1.2, places.max() * 1.2, 200)
    axis.plot(smooth, law.at(smooth), color=TEACHER, lw=1.5, label="law")
    for fitted, colour, label in ((True, STUDENT, "fitted"), (False, SERVED, "held out")):
        chosen = [i for i, point in enumerate(points) if (point.name != held) == fitted]
        if chosen:
            found = [points[i].entropy for i in chosen]
            heights = [one.estimate for one in found]
            axis.errorbar(
                places[chosen], heights, yerr=whiskers(found), fmt="o", color=colour, ecolor=INK, capsize=3, label=label
            )
    axis.axhline(law.offset, color=BASELINE, lw=0.8, ls="--", label=f"offset {law.offset:.2f}")
    axis.set(xscale="log", ylabel="contrastive entropy, nats")
    axis.set_xlabel("parameters of one tower, without embeddings" if x == "parameters" else "training pairs")
    axis.legend(frameon=False)
    save(figure, path)


def draw_differences(names: Sequence[str], found: Sequence[Interval], path: Path) -> None:
    """Each row of an ablation minus the default, nDCG@10, with its paired interval."""
    figure, (axis,) = figure_of(9, 0.36 * len(names) + 1.4)
    places = np.arange(len(names))
    for outside, colour in ((True, SERVED), (False, STUDENT)):
        chosen = [i for i, one in enumerate(found) if one.excludes_zero == outside]
        if chosen:
            some = [found[i] for i in chosen]
            label = "zero outside the interval" if outside else "may be noise"
            axis.errorbar(
                [one.estimate for one in some], places[chosen], xerr=whiskers(some), fmt="o", color=colour, capsize=3, label=label
            )
    axis.axvline(0, color=INK, lw=0.8)
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set(xlabel="nDCG@10 minus that of the default")
    axis.legend(frameon=False)
    save(figure, path)
