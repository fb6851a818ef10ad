"""From a demand to a plan: every layout's sheet at the good, the likely and the bad end of the figures, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from offline.plan.demand import Box, Demand
from offline.plan.figures import End, Figures
from offline.plan.layouts import LAYOUTS, Layout
from offline.plan.operating import operating_point
from offline.plan.sheet import Function, Value, compute
from offline.plan.simulation import Fleet
from offline.plan.times import Measured, p99_over_mean, slowest_over_mean

ENDS: tuple[End, ...] = ("good", "likely", "bad")
_MOST_WORKERS = 16
_LITTLE_MORE = 1.05
"""Times the least cost: for less nobody takes what is harder to run."""
MEMORY_SHARE = 0.9
"""Of a box's memory that may be used: the rest is the system's."""


@dataclass(frozen=True)
class Planned:
    """A layout for a demand.

    Attributes:
        values: of every step, at each end.
        verdict: in words: fits, or why not.
        feasible: at the likely figures.
        larger_box_gb: memory of a box that would hold it, where that alone is missing.
    """

    layout: Layout
    values: Mapping[End, Mapping[str, Value]]
    verdict: str
    feasible: bool
    larger_box_gb: float | None = None

    def span(self, name: str) -> tuple[Value, Value, Value]:
        """The least, the likely and the greatest of a step; None where an end has none.

        The likely one may be an end: cheaper searches need fewer replicas, of which each may be less busy.
        """
        low, mid, high = (self.values[end].get(name) for end in ENDS)
        if low is None or mid is None or high is None:
            return low, mid, high
        return min(low, mid, high), mid, max(low, mid, high)


@dataclass(frozen=True)
class Plan:
    """What was asked for and what came out.

    Attributes:
        given: the numbers at the likely end, by the names that formulas use.
        advised: name of the simplest layout that fits and costs a month at most 5% more than the cheapest, at the likely
            figures; None where none fits.
    """

    demand: Demand
    box: Box
    given: Mapping[str, float]
    layouts: tuple[Planned, ...]
    advised: str | None


def make_plan(demand: Demand, box: Box, figures: Figures, seed: int = 1, layouts: Sequence[Layout] = LAYOUTS) -> Plan:
    """Plan each layout; the same for the same arguments."""
    planned = tuple(_planned(layout, demand, box, figures, seed) for layout in layouts)
    return Plan(demand, box, _given(demand, box, figures, "likely"), planned, _advised(planned))


def _advised(planned: Sequence[Planned]) -> str | None:
    """They come with the simplest first."""
    costs = {each.layout.name: each.values["likely"]["month_cost"] for each in planned if each.feasible}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    least = min(known.values(), default=0.0)
    return next((name for name, cost in known.items() if cost <= _LITTLE_MORE * least), None)


def _planned(layout: Layout, demand: Demand, box: Box, figures: Figures, seed: int) -> Planned:
    values = {end: values_at(end, layout, demand, box, figures, seed) for end in ENDS}
    verdict, feasible = _verdict(layout, values, demand, box)
    return Planned(layout, values, verdict, feasible, _larger_box_gb(layout, values["likely"], box))


def values_at(end: End, layout: Layout, demand: Demand, box: Box, figures: Figures, seed: int) -> Mapping[str, Value]:
    """Of every step of a layout's sheet, at one end of all figures."""
    given = _given(demand, box, figures, end)
    return compute(layout.steps, given, _functions(demand, figures.times(), given, seed))


def _given(demand: Demand, box: Box, figures: Figures, end: End) -> dict[str, float]:
    found = figures.at(end)
    parameters = demand.tower_parameters or found["encoded_parameters"]
    return {
        **found,
        **asdict(demand),
        "box_memory_gb": box.memory_gb,
        "box_cores": box.cores,
        "spare_boxes": box.spare,
        "tower_factor": parameters / found["encoded_parameters"],
    }


def _functions(demand: Demand, shape: Measured, given: Mapping[str, float], seed: int) -> dict[str, Function]:
    def hnsw_ms(documents: float) -> float:
        return search_ms(documents, given["hnsw_ms_100k"], given["hnsw_ms_1m"], given["hnsw_growth"])

    def ivf_ms(documents: float) -> float:
        return search_ms(documents, given["ivf_ms_100k"], given["ivf_ms_1m"], given["ivf_growth"])

    def busy_process(mean_ms: float, replicas: float) -> Value:
        cores = int(given["replica_cores"])
        fleet = Fleet(int(replicas), cores, hosts=int(replicas), cores=cores, beside_ms=given["beside_ms"])
        return operating_point(shape.with_mean(mean_ms), demand.p99_ms, fleet, seed).busy or None

    def busy_box(mean_ms: float, workers: float, boxes: float) -> Value:
        fleet = Fleet(int(boxes), min(int(workers), _MOST_WORKERS))
        return operating_point(shape.with_mean(mean_ms), demand.p99_ms, fleet, seed).busy or None

    def fewest_threads(alone_ms: float, shared_ms: float, most: float) -> float:
        for threads in range(1, int(most) + 1):
            mean_ms = alone_ms + shared_ms / threads * slowest_over_mean(shape, threads)
            if mean_ms * p99_over_mean(shape) <= demand.p99_ms / 2:
                return float(threads)
        return most

    return {
        "hnsw_ms": hnsw_ms,
        "ivf_ms": ivf_ms,
        "busy_process": busy_process,
        "busy_box": busy_box,
        "fewest_threads": fewest_threads,
        "slowest": lambda parts: slowest_over_mean(shape, int(parts)),
        "p99_over_mean": lambda parts: p99_over_mean(shape, int(parts)),
    }


FUNCTIONS: Mapping[str, str] = {
    "hnsw_ms(n), ivf_ms(n)": "up to 100,000 rows what 100,000 take; to a million a straight line between both on logarithmic "
    "axes; beyond, the million's times (n / 1e6) ** growth",
    "busy_process(ms, replicas)": "simulated: the highest load, in steps of 5%, of so many processes behind least connections, "
    "each with its own cores and beside_ms of CPU for each arrival, "
    "at which p99_ms is kept and at most 0.1% is shed; none where a search by itself is too slow",
    "busy_box(ms, workers, boxes)": "likewise, of boxes that work on so many searches at once, sixteen at most",
    "fewest_threads(alone, shared, most)": "the least number whose slowest, idle, keeps half of p99_ms; all where none does",
    "slowest(n)": "the mean of the slowest of n independent times over the mean of one, by the measured distribution",
    "p99_over_mean(1)": "of the measured distribution of a search that waits for nothing",
}


def search_ms(documents: float, at_100k: float, at_1m: float, growth: float) -> float:
    """One search of so many rows on one thread, from two measured points and the growth beyond them."""
    if documents <= 1e5:
        return at_100k
    if documents >= 1e6:
        return float(at_1m * (documents / 1e6) ** growth)
    part = math.log10(documents / 1e5)
    return math.exp((1 - part) * math.log(at_100k) + part * math.log(at_1m))


def _larger_box_gb(layout: Layout, likely: Mapping[str, Value], box: Box) -> float | None:
    needed_gb = likely.get(layout.needs_gb or "")
    if needed_gb is None or likely.get("busy") is None or needed_gb <= MEMORY_SHARE * box.memory_gb:
        return None
    return float(math.ceil(needed_gb / MEMORY_SHARE))


def _verdict(layout: Layout, values: Mapping[End, Mapping[str, Value]], demand: Demand, box: Box) -> tuple[str, bool]:
    likely, room_gb = values["likely"], MEMORY_SHARE * box.memory_gb
    alone = likely["alone_p99_ms"]
    if likely.get("busy") is None:
        said = f"too slow: by itself, a search takes {alone:.3g} ms at p99, of {demand.p99_ms:g}"
        return said + (", which leaves no time to wait at any load" if (alone or 0.0) <= demand.p99_ms else ""), False
    if likely["boxes"] is None:
        return f"does not fit: a process takes more than the {box.cores:g} cores of a box", False
    if layout.needs_gb is not None:
        needed = [values[end][layout.needs_gb] for end in ENDS]
        gigabytes = needed[1] or 0.0
        if gigabytes > room_gb:
            return f"does not fit: {gigabytes:.0f} GB of {room_gb:.0f} (90% of a box)", False
        if (needed[2] or math.inf) > room_gb:
            return "fits at the likely figures, not at the bad ones", True
    if values["bad"].get("busy") is None:
        return "fits; too slow at the bad figures", True
    return "fits", True
