"""``python -m tests.scale.page``: writes the tables of docs/scale.md anew: example plans, and the simulation beside the bench."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.markdown import table
from offline.plan.bench import BenchFormatError, Table, Tables
from offline.plan.demand import Box, Demand
from offline.plan.door import Shedding
from offline.plan.figures import Figures, load_figures, significant
from offline.plan.make import make_plan
from offline.plan.render import human, spanned
from offline.plan.simulation import Fleet, Load, simulate
from snapshot.files import write_text
from tests.bench.scale import BUDGET_MS
from tests.scale.capacity import BENCH, DOCS, replaced

PAGE = "scale.md"
PLANS = "<!-- tables: python -m tests.scale.page -->", "<!-- end of tables -->"
CHECK = "<!-- check: python -m tests.scale.page -->", "<!-- end of check -->"
EXAMPLES = ((1e6, 2000.0), (2e7, 2000.0), (1e8, 2000.0), (1e9, 2000.0), (1e9, 50_000.0))
BOX = Box(memory_gb=384, cores=32)
LOADS = ("50%", "70%", "90%", "300%")
_DIM, _P99_MS = 384, 50


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.page", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page and of performance.json")
    docs = parser.parse_args(argv).docs
    page = replaced((docs / PAGE).read_text(encoding="utf-8"), *PLANS, examples())
    bench = json.loads((docs / BENCH).read_text(encoding="utf-8"))
    write_text(docs / PAGE, replaced(page, *CHECK, beside_the_bench(bench, load_figures())))
    return 0


def examples(asked: Sequence[tuple[float, float]] = EXAMPLES) -> str:
    """Plans for several numbers of documents and searches a second."""
    rows = []
    for documents, qps in asked:
        plan = make_plan(Demand(documents, _DIM, qps, _P99_MS), BOX, load_figures())
        for each in plan.layouts:
            advised = " (advised)" if each.layout.name == plan.advised else ""
            figures = (spanned(*each.span(name)) for name in ("box_gb", "shards", "replicas", "boxes", "month_cost"))
            rows.append([f"{human(documents)}, {human(qps)}/s", each.layout.title, *figures, f"{each.verdict}{advised}"])
    header = ["documents, load", "layout", "GB a box", "shards", "replicas", "boxes", "$ a month", ""]
    box = f"boxes of {BOX.cores:g} cores and {BOX.memory_gb:g} GB, two snapshots on each for the swap"
    title = f"{_DIM} dimensions, p99 {_P99_MS} ms, {box}:"
    return f"{title}\n\n{table(header, rows)}"


@dataclass(frozen=True)
class Point:
    """One load on the bench's replica."""

    load: str
    p50_ms: float
    p99_ms: float
    shed_share: float


def beside_the_bench(bench: Mapping[str, Any], figures: Figures) -> str:
    """One replica under the loads of the group overload."""
    rows = []
    for load in LOADS:
        ours, theirs = simulated(bench, figures, load), measured(bench, load)
        pairs = ((ours.p50_ms, theirs.p50_ms), (ours.p99_ms, theirs.p99_ms))
        shed = f"{ours.shed_share:.1%} / {theirs.shed_share:.1%}"
        rows.append([load, *(f"{significant(one):g} / {significant(other):g}" for one, other in pairs), shed])
    header = ["load", "p50 ms, simulated / measured", "p99 ms", "shed"]
    return f"One replica, 100,000 documents, a budget of {BUDGET_MS:g} ms, against {BENCH}:\n\n{table(header, rows)}"


def measured(bench: Mapping[str, Any], load: str) -> Point:
    """What the bench saw; loads at which nothing was shed have no line about that."""
    found = _tables(bench)
    p50_ms, p99_ms = (found.find("overload", "ours", load, each).mid for each in ("p50_ms", "p99_ms"))
    shed = sum(_or_none(found, load, each) or 0.0 for each in ("refused_share", "late_share"))
    return Point(load, p50_ms, p99_ms, shed)


def simulated(bench: Mapping[str, Any], figures: Figures, load: str) -> Point:
    """The same replica, whose client is on the same cores."""
    found, cores = _tables(bench), figures.by_name["replica_cores"].mid
    most = found.find("overload", "ours", "capacity", "accepted_per_second").mid
    fleet = Fleet(1, int(cores), cores=cores, beside_ms=figures.by_name["beside_ms"].mid)
    answered = found.find("overload", "ours", load, "accepted_per_second").mid
    traffic = Load(_or_none(found, load, "offered_per_second") or answered)
    ran = simulate(fleet, figures.times().with_mean(1000 * cores / most), traffic, Shedding(BUDGET_MS))
    return Point(load, ran.quantile_ms(0.5), ran.quantile_ms(0.99), ran.shed_share)


def _tables(bench: Mapping[str, Any]) -> Tables:
    return Tables({each["title"]: Table.model_validate(each) for each in bench["tables"]})


def _or_none(found: Tables, load: str, figure: str) -> float | None:
    try:
        return found.find("overload", "ours", load, figure).mid
    except BenchFormatError:
        return None


if __name__ == "__main__":
    raise SystemExit(main())
