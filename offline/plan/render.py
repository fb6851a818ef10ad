"""A plan as text and as JSON: a table of layouts, then every formula with its numbers, then the figures and their sources."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from offline.plan.figures import Figures, significant
from offline.plan.make import ENDS, FUNCTIONS, Plan, Planned
from offline.plan.sheet import Step, Value, names_in

_ROWS: Mapping[str, str] = {
    "box_gb": "memory of a box, GB",
    "disk_total_gb": "disk, GB in all",
    "shards": "shards",
    "replicas": "replicas",
    "boxes": "boxes",
    "core_ms": "CPU of a search, core ms",
    "alone_p99_ms": "p99 of a search alone, ms",
    "busy": "busy at most",
    "encode_hours": "encode, hours",
    "build_hours": "build, hours",
    "once_cost": "encode and build, $",
    "month_cost": "a month, $",
}
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def show(plan: Plan, figures: Figures, out: Console, *, brief: bool) -> None:
    """Print the table and, unless ``brief``, formulas and figures."""
    out.print(_table(plan), highlight=False)
    for line in verdicts(plan):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not brief:
        for line in [*_formulas(plan), *_sources(figures)]:
            out.print(line, markup=False, highlight=False, soft_wrap=True)


def verdicts(plan: Plan) -> list[str]:
    """A line a layout: what is advised, and which would do on a larger box, at about which cost."""
    lines = []
    for each in plan.layouts:
        line = f"{each.layout.title}: {each.verdict}"
        if each.layout.name == plan.advised:
            line += "; advised: the simplest within 5% of the least cost"
        if each.larger_box_gb is not None:
            cost = human(each.values["likely"]["month_cost"])
            line += f"; with boxes of {each.larger_box_gb:g} GB it would, for some ${cost} a month and the larger boxes"
        lines.append(line)
    return lines


def as_json(plan: Plan, figures: Figures) -> str:
    """All of it for programs; what an end has no value for is null."""
    layouts = [
        {
            "name": each.layout.name,
            "title": each.layout.title,
            "verdict": each.verdict,
            "feasible": each.feasible,
            "larger_box_gb": each.larger_box_gb,
            "steps": {step.name: _step(each, step) for step in each.layout.steps},
        }
        for each in plan.layouts
    ]
    whole: dict[str, Any] = {
        "demand": asdict(plan.demand),
        "box": asdict(plan.box),
        "given": dict(plan.given),
        "advised": plan.advised,
        "layouts": layouts,
        "figures": {name: each.model_dump(mode="json") for name, each in figures.by_name.items()},
    }
    return json.dumps(whole, indent=2, allow_nan=False)


def _step(planned: Planned, step: Step) -> dict[str, Any]:
    values: dict[str, Value] = {end: planned.values[end][step.name] for end in ENDS}
    return {"unit": step.unit, "formula": step.formula, "about": step.about, **values}


def _table(plan: Plan) -> Table:
    demand, box = plan.demand, plan.box
    title = (
        f"{human(demand.documents)} documents of {demand.dim:g} dimensions, {human(demand.qps)} searches a second, "
        f"p99 {demand.p99_ms:g} ms; boxes of {box.cores:g} cores and {box.memory_gb:g} GB"
    )
    table = Table("", *(each.layout.title for each in plan.layouts), title=title, title_justify="left")
    for name, what in _ROWS.items():
        table.add_row(what, *(spanned(*each.span(name)) for each in plan.layouts))
    return table


def spanned(low: Value, mid: Value, high: Value) -> str:
    """``mid [low, high]``; one number where they are the same, a dash where there is none."""
    if low is None and mid is None and high is None:
        return "-"
    texts = [human(value) for value in (low, mid, high)]
    return texts[1] if len(set(texts)) == 1 else f"{texts[1]} [{texts[0]}, {texts[2]}]"


def human(value: Value) -> str:
    """Three digits that count, with a suffix for thousands and more."""
    if value is None or not math.isfinite(value):
        return "-"
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            scaled = significant(value / (1e3 if suffix == "k" else size))
            return f"{scaled:g}{suffix}"
    return f"{significant(value, 4 if value >= 1000 else 3):g}"


def _formulas(plan: Plan) -> list[str]:
    lines = ["", "How it is computed, at the likely figures:"]
    for each in plan.layouts:
        lines += ["", f"{each.layout.title}: {each.layout.about}."]
        known: dict[str, Value] = {**plan.given, **each.values["likely"]}
        for step in each.layout.steps:
            used = ", ".join(f"{name} {human(known[name])}" for name in names_in(step.formula))
            value = f"{human(known[step.name])} {step.unit}".rstrip()
            about = f": {step.about}" if step.about else ""
            lines.append(f"  {step.name} = {value}{about}")
            lines.append(f"      {step.formula}" + (f"   [{used}]" if used else ""))
    lines += ["", *(f"  {name}: {about}." for name, about in FUNCTIONS.items())]
    return lines


def _sources(figures: Figures) -> list[str]:
    lines = ["", "Figures, with the ends that were seen:"]
    for name, each in figures.by_name.items():
        span = spanned(each.least, each.mid, each.greatest)
        day = f" {each.date}" if each.date else ""
        lines.append(f"  {name} {span} {each.unit} ({each.kind}{day}; {each.source})")
    return [*lines, f"  shape of times: {figures.shape.source}"]
