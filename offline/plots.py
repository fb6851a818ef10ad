"""The pictures of the report. Figures are drawn without pyplot: no global state, no display, no backend to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from offline.bootstrap import Interval, Values
from offline.findings import DevPoint, Findings, Proof, Quality
from offline.metrics import METRICS, NDCG
from snapshot.files import atomic_write

INK = "#1f2933"
_FAINT = "#cbd2d9"
BASELINE = "#9aa5b1"
TEACHER = "#486581"
STUDENT = "#7ba7d7"
SERVED = "#d9622b"
_GAIN = "#3f9142"
_COLOURS = {"bm25": BASELINE, "zero-shot": BASELINE, "teacher": TEACHER, "served": SERVED}
_DPI = 144
_WIDTH = 0.62
_SAME = 1e-9


def draw_quality(proof: Proof, path: Path) -> None:
    """A panel a metric, a bar a system, whiskers for the 95% intervals."""
    figure, axes = figure_of(12, 0.42 * len(proof.systems) + 1.5, columns=len(METRICS))
    for position, metric in enumerate(METRICS):
        _quality_panel(axes[position], metric, proof.systems, labels=position == 0)
    figure.suptitle(f"Quality on {proof.queries} {proof.split} queries, with 95% bootstrap intervals", x=0.01, ha="left")
    save(figure, path)


def _quality_panel(axis: Any, metric: str, systems: tuple[Quality, ...], labels: bool) -> None:
    found = [system.metrics[metric] for system in systems]
    places = np.arange(len(systems))
    axis.barh(places, [one.estimate for one in found], color=[_COLOURS.get(s.name, STUDENT) for s in systems], height=0.64)
    axis.errorbar([one.estimate for one in found], places, xerr=whiskers(found), fmt="none", ecolor=INK, capsize=2.5, lw=1)
    for place, one in zip(places, found, strict=True):
        axis.annotate(f"{one.estimate:.3f}", (one.high, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    limit = 1.22 * max(one.high for one in found) or 1.0
    axis.set(title=metric, xlim=(0, limit), yticks=places)
    axis.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, limit) if 0 <= tick <= min(1.0, limit)])
    axis.set_yticklabels([system.title for system in systems] if labels else [])
    axis.invert_yaxis()


def draw_losses(proof: Proof, path: Path) -> None:
    """From the teacher to what is served: what each step costs in nDCG@10, with its paired interval."""
    quality = {system.name: system.metrics[NDCG].estimate for system in proof.systems}
    steps = [_Step(quality[loss.before], quality[loss.after], loss.difference) for loss in proof.losses]
    first, last = quality["teacher"], quality["served"]
    lowest = min([first, last, *(step.lowest for step in steps)])
    highest = max([first, last, *(step.highest for step in steps)])
    margin = 0.12 * (highest - lowest) or 0.01
    floor = max(0.0, lowest - margin)
    figure, (axis,) = figure_of(9, 4.2)
    for place, end, colour in ((0, first, TEACHER), (len(steps) + 1, last, SERVED)):
        axis.bar(place, end - floor, bottom=floor, color=colour, width=_WIDTH)
        _above(axis, place, end, f"{end:.4f}")
    for place, step in enumerate(steps, start=1):
        _draw_step(axis, place, step)
    axis.hlines(last, len(steps) - _WIDTH / 2, len(steps) + 1 + _WIDTH / 2, color=INK, lw=0.8)
    axis.set(ylim=(floor, highest + 1.6 * margin), ylabel=f"{NDCG} (axis does not begin at 0)" if floor else NDCG)
    axis.set_xticks(range(len(steps) + 2), ["teacher", *(loss.step for loss in proof.losses), "as served"])
    axis.set_title("What each step from the teacher to the service costs", loc="left")
    save(figure, path)


@dataclass(frozen=True, slots=True)
class _Step:
    """A fall (or rise) from ``before`` to ``after``; ``loss`` is before minus after."""

    before: float
    after: float
    loss: Interval

    @property
    def lowest(self) -> float:
        return min(self.before, self.before - self.loss.high)

    @property
    def highest(self) -> float:
        return max(self.before, self.before - self.loss.low)


def _draw_step(axis: Any, place: int, step: _Step) -> None:
    fell = step.after <= step.before
    axis.bar(place, step.after - step.before, bottom=step.before, color=STUDENT if fell else _GAIN, width=_WIDTH)
    axis.hlines(step.before, place - 1 - _WIDTH / 2, place + _WIDTH / 2, color=INK, lw=0.8)
    down, up = step.loss.high - step.loss.estimate, step.loss.estimate - step.loss.low
    axis.errorbar(place, step.after, yerr=[[down], [up]], fmt="none", ecolor=INK, capsize=3, lw=1)
    _above(axis, place, step.highest, f"{-step.loss.estimate:+.4f}" if step.loss.estimate else "0")


def _above(axis: Any, place: float, height: float, text: str) -> None:
    axis.annotate(text, (place, height), (0, 4), textcoords="offset points", ha="center", fontsize=9)


def draw_retention(teacher: Values, served: Values, path: Path) -> None:
    """Query by query, nDCG@10 float64[q] of both: where they agree, and how the differences are spread."""
    figure, (left, right) = figure_of(11, 4.4, columns=2)
    _draw_agreement(left, teacher, served)
    difference = served - teacher
    right.hist(difference, bins=np.linspace(-1.05, 1.05, 22), color=STUDENT, edgecolor="white", log=True)
    right.set(xlabel=f"as served minus teacher, {NDCG}", ylabel="queries (logarithmic)", ylim=(0.7, None))
    same, better = np.mean(np.abs(difference) < _SAME), np.mean(difference >= _SAME)
    right.set_title(f"same {same:.0%}, better {better:.0%}, worse {1 - same - better:.0%}", loc="left")
    save(figure, path)


def _draw_agreement(axis: Any, teacher: Values, served: Values) -> None:
    edges = np.linspace(0, 1, 11)
    counts, _, _ = np.histogram2d(teacher, served, bins=[edges, edges])
    shade = np.log1p(counts) / np.log1p(counts.max())
    axis.pcolormesh(edges, edges, shade.T, cmap="Blues")
    axis.plot([0, 1], [0, 1], color=SERVED, lw=1, alpha=0.5)
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shade[i, j] > 0.55 else INK
        axis.text(edges[i] + 0.05, edges[j] + 0.05, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set(xlabel=f"teacher, {NDCG}", ylabel=f"as served, {NDCG}", aspect="equal")
    axis.set_title("Queries by quality before and after", loc="left")


def draw_effort(findings: Findings, path: Path) -> None:
    """Recall against exact search over the time of a search, one point an effort."""
    index = findings.index
    figure, (axis,) = figure_of(7.5, 4.2)
    p50 = [row.p50_ms for row in index.efforts]
    recall = [row.recall_at_10 for row in index.efforts]
    axis.hlines(recall, p50, [row.p99_ms for row in index.efforts], color=_FAINT, lw=3, label="p50 to p99")
    axis.plot(p50, recall, "-o", color=TEACHER, label="p50")
    for row in index.efforts:
        axis.annotate(
            f"{row.effort}", (row.p50_ms, row.recall_at_10), (-8, 4), textcoords="offset points", ha="right", fontsize=8
        )
    chosen = next(row for row in index.efforts if row.effort == index.default_effort)
    axis.plot(chosen.p50_ms, chosen.recall_at_10, "o", color=SERVED, ms=10, label=f"default effort, {chosen.effort}")
    axis.set(xlim=(0, None), xlabel="search time of one query, ms", ylabel="recall@10 against exact search")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_title(f"{index.kind} index of {findings.documents:,} documents, by effort", loc="left")
    axis.margins(y=0.12)
    bounds = axis.get_ylim()
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 1.0])
    axis.set_ylim(bounds)
    axis.legend(frameon=False, loc="lower right")
    save(figure, path)


def draw_dev_curve(points: Sequence[DevPoint], path: Path) -> None:
    """nDCG@10 on held-out queries while the towers were trained."""
    figure, (axis,) = figure_of(7.5, 3.8)
    epochs, found = [point.epoch for point in points], [point.ndcg for point in points]
    axis.plot(epochs, found, "-o", color=TEACHER)
    best = int(np.argmax(found))
    axis.plot(epochs[best], found[best], "o", color=SERVED, ms=10, label=f"best, {found[best]:.4f}")
    axis.set(xlabel="epoch", ylabel=f"{NDCG} (axis does not begin at 0)")
    axis.set_title("Stage 1 on queries that it does not learn", loc="left")
    axis.legend(frameon=False, loc="lower right")
    save(figure, path)


def figure_of(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, color=_FAINT)
    return figure, axes


def whiskers(found: Sequence[Interval]) -> list[list[float]]:
    """Ends of the intervals, as matplotlib takes them."""
    return [[one.estimate - one.low for one in found], [one.high - one.estimate for one in found]]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically."""
    with atomic_write(path) as handle:
        FigureCanvasAgg(figure)
        figure.savefig(handle, format="png", dpi=_DPI, metadata={"Software": None})
