"""What a search for a student found: retention against latency, the Pareto front of it, a page and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pydantic import BaseModel, ConfigDict

from offline.markdown import table
from snapshot.files import atomic_write

_INK, _FAINT, _FRONT, _BEST = "#1f2933", "#9aa5b1", "#486581", "#d9622b"
_DPI = 144


class Latency(BaseModel):
    """Milliseconds of a query by itself on one thread of this machine, as each graph; ``megabytes`` of the faster one."""

    model_config = ConfigDict(frozen=True)

    fp32: float
    int8: float | None
    megabytes: float

    @property
    def served(self) -> float:
        return self.fp32 if self.int8 is None else min(self.fp32, self.int8)


class Trial(BaseModel):
    """A candidate after its last round: ``texts`` learned, ``retained`` of the teacher's quality."""

    model_config = ConfigDict(frozen=True)

    name: str
    distill: dict[str, Any]
    """What it changes in the recipe's section ``distill``."""
    latency: Latency
    texts: int
    retained: float
    parameters: int


class Findings(BaseModel):
    """All candidates; ``best`` is the name of the one with the most retained within the budget.

    Where none is within it ``best`` is None, and there are no trials: nobody was trained.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    budget_ms: float
    teacher_ms: float
    quality: str
    """What ``retained`` is a share of, in words."""
    latencies: dict[str, Latency]
    """Of every candidate, untrained."""
    trials: tuple[Trial, ...]
    best: str | None

    @property
    def nearest(self) -> str:
        """The fastest candidate, in words."""
        if not self.latencies:
            return "no candidate could be built"
        name = min(self.latencies, key=lambda each: self.latencies[each].served)
        return f"the fastest, {name}, takes {self.latencies[name].served:.3f} ms"


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Those than which none is both as fast and as good: the Pareto front, the fastest first."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.latency.served, -trial.retained)):
        if not kept or trial.retained > kept[-1].retained:
            kept.append(trial)
    return kept


def survivors(trials: Sequence[Trial], count: int) -> list[Trial]:
    """``count`` of the trials: front after front, so that slow and good ones do not drive out fast ones."""
    left: list[Trial] = list(trials)
    kept: list[Trial] = []
    while left and len(kept) < count:
        best = sorted(front(left), key=lambda trial: -trial.retained)
        kept += best[: count - len(kept)]
        left = [trial for trial in left if trial not in best]
    return kept


def best(trials: Sequence[Trial], budget_ms: float) -> Trial | None:
    """The trial that retains the most within the budget."""
    within = [trial for trial in trials if trial.latency.served <= budget_ms]
    return max(within, key=lambda trial: trial.retained, default=None)


def page(found: Findings) -> str:
    """The Markdown page."""
    title = f"# {found.recipe}: students for a budget of {found.budget_ms:g} ms"
    timed = (
        "Latency is that of one query on one thread of this machine, all graphs by turns; the teacher's query tower takes "
        f"{found.teacher_ms:.2f} ms (fp32)."
    )
    if found.best is None:
        said = f"No candidate is within it, so none was trained: {found.nearest}. {timed}"
        return f"{title}\n\n{said}\n\n{_times(found)}\n"
    return (
        f"{title}\n\nRetained is the share of the teacher's {found.quality} after a short training, on as many texts as the "
        f"table says. {timed} The budget is {found.budget_ms:g} ms; the best within it is **{found.best}**.\n\n"
        f"{_trained(found)}\n\n![Retention against latency](front.png)\n"
    )


def _times(found: Findings) -> str:
    """Of candidates that nobody trained, the fastest first."""
    ordered = sorted(found.latencies.items(), key=lambda item: item[1].served)
    rows = [
        [
            name,
            f"{taken.fp32:.3f}",
            "" if taken.int8 is None else f"{taken.int8:.3f}",
            f"{found.teacher_ms / taken.served:.1f}",
            f"{taken.megabytes:.1f}",
        ]
        for name, taken in ordered
    ]
    return table(["student", "fp32 ms", "int8 ms", "times the teacher's speed", "MB"], rows)


def _trained(found: Findings) -> str:
    names = {trial.name for trial in front(found.trials)}
    rows = [
        "| student | fp32 ms | int8 ms | times the teacher's speed | MB | parameters | texts | retained | front |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trial in sorted(found.trials, key=lambda trial: trial.latency.served):
        int8 = "" if trial.latency.int8 is None else f"{trial.latency.int8:.3f}"
        cells = [
            f"**{trial.name}**" if trial.name == found.best else trial.name,
            f"{trial.latency.fp32:.3f}",
            int8,
            f"{found.teacher_ms / trial.latency.served:.1f}",
            f"{trial.latency.megabytes:.1f}",
            f"{trial.parameters / 1e6:.2f} M",
            f"{trial.texts:,}",
            f"{trial.retained:.1%}",
            "yes" if trial.name in names else "",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def draw(found: Findings, path: Path) -> None:
    """Retention over latency, the front as a line, the budget as another."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    line = front(found.trials)
    axis.plot([t.latency.served for t in line], [t.retained for t in line], "-", color=_FRONT, label="front", zorder=1)
    for trial in found.trials:
        colour = _BEST if trial.name == found.best else _FRONT if trial in line else _FAINT
        axis.plot(trial.latency.served, trial.retained, "o", color=colour, zorder=2)
        axis.annotate(
            trial.name, (trial.latency.served, trial.retained), (5, -9), textcoords="offset points", fontsize=8, color=_INK
        )
    axis.axvline(found.budget_ms, color=_BEST, lw=1, ls="--", label=f"budget, {found.budget_ms:g} ms")
    axis.set(
        xscale="log",
        xlabel="encode latency of one query, ms, one thread (logarithmic)",
        ylabel=f"of the teacher's {found.quality}",
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_title("Students after a short training", loc="left")
    axis.legend(frameon=False, loc="lower right")
    with atomic_write(path) as handle:
        FigureCanvasAgg(figure)
        figure.savefig(handle, format="png", dpi=_DPI, metadata={"Software": None})
