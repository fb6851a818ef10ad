"""The pictures of the page. Figures are drawn without pyplot: no global state, no display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from snapshot.files import atomic_write
from tests.bench.figures import QUANTILES, Row, Rows, Spread
from tests.bench.floor import STAGES
from tests.bench.overload import IN_HEADER

_COLOURS = {
    "floor": "#9aa5b1",
    "http_floor": "#cbd2d9",
    "ours": "#d9622b",
    "ours_int8": "#8c2d04",
    "ours_six_layers": "#e9a07c",
    "naive_six_layers": "#486581",
    "sentence_transformers": "#7ba7d7",
}
_FAINT, _INK = "#cbd2d9", "#1f2933"
_DPI = 100
_FLOOR, _CLOSED, _OVERLOAD, _SIZES = "floor", "closed", "overload", "sizes"


def draw(rows: Rows, folder: Path) -> dict[str, str]:
    """Draw what was measured into ``folder``; file names and captions of what was drawn."""
    drawn = {}
    for group, name, caption, painter in _PICTURES:
        if rows.of(group):
            _save(painter(rows), folder / name)
            drawn[name] = caption
    return drawn


def _latency(rows: Rows) -> Figure:
    """Cumulative distributions, each the median of the rounds at every quantile."""
    shown = [(group, load) for group, load in ((_FLOOR, "c=1"), (_CLOSED, "c=8")) if rows.of(group)]
    figure, axes = _figure(5.5 * len(shown), 4.2, columns=len(shown))
    for axis, (group, load) in zip(axes, shown, strict=True):
        for subject, found in _by_subject(rows.of(group), load).items():
            curve = np.median([row.quantiles_ms for row in found if row.quantiles_ms], axis=0)
            axis.plot(curve, np.array(QUANTILES) / 100, color=_COLOURS[subject], label=subject)
        axis.set(xscale="log", xlabel="latency, ms", ylabel="share of answers", title=f"{group}, {load}")
        axis.legend(frameon=False, loc="upper left", fontsize=8)
    return figure


def _stack(rows: Rows) -> Figure:
    """Where the time of a search goes: the stages of the floor, and what the service adds around them."""
    figure, (axis,) = _figure(8, 2.2)
    stages = {stage: Spread.of(rows.values(_FLOOR, "floor", "c=1", f"{stage}_p50_ms")).median for stage in STAGES}
    whole = Spread.of(rows.values(_FLOOR, "ours", "c=1", "p50_ms")).median
    left = 0.0
    parts = {**stages, "around it": max(0.0, whole - sum(stages.values()))}
    for (name, width), colour in zip(parts.items(), ("#cbd2d9", "#9aa5b1", "#486581", "#d9622b"), strict=True):
        axis.barh(0, width, left=left, color=colour, label=f"{name} {width:.2f}")
        left += width
    axis.set(yticks=[], xlabel="p50 at concurrency 1, ms", title="A search: the floor's stages and the service around them")
    figure.legend(frameon=False, ncols=4, loc="outside lower center", fontsize=8)
    return figure


def _overload(rows: Rows) -> Figure:
    figure, (left, right) = _figure(11, 4.2, columns=2)
    loads = [load for load in dict.fromkeys(row.load for row in rows.of(_OVERLOAD)) if load != IN_HEADER][1:]
    for name, colour in (("offered_per_second", _FAINT), ("accepted_per_second", "#486581"), ("good_per_second", "#d9622b")):
        left.plot(loads, _medians(rows, loads, name), "-o", color=colour, label=name.replace("_", " "))
    left.set(ylim=(0, None), xlabel="offered load, share of capacity", title="Goodput over offered load")
    for name, colour in (("p50_ms", "#7ba7d7"), ("p99_ms", "#486581"), ("p999_ms", _INK), ("refused_p99_ms", "#d9622b")):
        right.plot(loads, _medians(rows, loads, name), "-o", color=colour, label=name.replace("_ms", "").replace("_", " "))
    right.set(yscale="log", ylabel="ms", xlabel="offered load, share of capacity", title="Latency of accepted and refused")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    return figure


def _sizes(rows: Rows) -> Figure:
    figure, (left, right) = _figure(11, 4.2, columns=2)
    subjects = list(dict.fromkeys(row.subject for row in rows.of(_SIZES)))
    for kind, colour in (("hnsw", "#d9622b"), ("ivfpq", "#486581")):
        of_kind = [subject for subject in subjects if subject.startswith(kind)]
        sizes = [int(subject.split()[1]) for subject in of_kind]
        for axis, load, name in ((left, "c=1", "p50_ms"), (right, "once", "resident_mb")):
            values = [Spread.of(rows.values(_SIZES, subject, load, name)).median for subject in of_kind]
            axis.plot(sizes, values, "-o", color=colour, label=kind)
    left.set(xscale="log", ylim=(0, None), xlabel="documents", ylabel="p50 at concurrency 1, ms", title="Latency by size")
    right.set(xscale="log", ylim=(0, None), xlabel="documents", ylabel="MB", title="Resident memory by size")
    left.legend(frameon=False, fontsize=8)
    return figure


_PICTURES: Sequence[tuple[str, str, str, Callable[[Rows], Figure]]] = (
    (_FLOOR, "bench-floor.png", "Where the time of a search goes", _stack),
    (_CLOSED, "bench-latency.png", "Latency beside the floors and the rivals", _latency),
    (_OVERLOAD, "bench-overload.png", "Goodput and latency over offered load", _overload),
    (_SIZES, "bench-sizes.png", "Latency and memory by size and kind of index", _sizes),
)


def _medians(rows: Rows, loads: Sequence[str], name: str) -> list[float]:
    """One a load; not a number where there is none, which leaves a gap in the line."""
    found = (rows.values(_OVERLOAD, "ours", load, name) for load in loads)
    return [Spread.of(values).median if values else float("nan") for values in found]


def _by_subject(rows: Sequence[Row], load: str) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.load == load:
            found.setdefault(row.subject, []).append(row)
    return found


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, color=_FAINT)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as handle:
        FigureCanvasAgg(figure)
        figure.savefig(handle, format="png", dpi=_DPI, metadata={"Software": None})
