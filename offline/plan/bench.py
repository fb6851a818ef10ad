"""What ``make bench`` measured, as figures of a plan: from its result or from docs/performance.json, which is made of it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from offline.plan.figures import Figure, Shape, significant

_HEADS = {
    "p50_ms": "p50 ms",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "p999_ms": "p99.9",
    "max_ms": "max",
    "accepted_per_second": "answers/s",
    "offered_per_second": "offered/s",
    "good_share": "in budget",
    "refused_share": "refused",
    "late_share": "late",
    "cpu_ms": "CPU ms",
    "client_cpu_ms": "client's CPU ms",
}
_TITLES = ("answers 200", "refused (429) and late (504)", "other figures")
_SPREAD = re.compile(r"^(\S+) \[(\S+), (\S+)\]$")
_SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
_LOAD = "c=8"


class BenchFormatError(ValueError):
    """A file lacks what a bench writes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A figure over the rounds of a bench."""

    mid: float
    low: float
    high: float


class Bench(Protocol):
    """Where figures of a bench are looked up."""

    def find(self, group: str, subject: str, load: str, figure: str) -> Seen:
        """BenchFormatError where it was not measured."""


class Row(BaseModel):
    """One round of one load, as ``tests.bench.result`` writes it."""

    group: str
    subject: str
    load: str
    figures: dict[str, float]


class Table(BaseModel):
    """Of docs/performance.json."""

    title: str
    header: list[str]
    lines: list[list[str]]


class _File(BaseModel):
    machine: dict[str, str]
    finished_at: datetime
    rows: list[Row] | None = None
    tables: list[Table] | None = None

    def bench(self) -> Bench:
        if self.rows is not None:
            return Rows(self.rows)
        if self.tables is not None:
            return Tables({table.title: table for table in self.tables})
        raise BenchFormatError("this is no result of make bench: it has neither rows nor tables")


@dataclass(frozen=True)
class Rows:
    """Rows of a result, one a round."""

    rows: Sequence[Row]

    def find(self, group: str, subject: str, load: str, figure: str) -> Seen:
        values = [
            row.figures[figure]
            for row in self.rows
            if (row.group, row.subject, row.load) == (group, subject, load) and figure in row.figures
        ]
        if not values:
            raise _missing(group, subject, load, figure)
        return Seen(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Tables:
    """Tables of the page; a cell without its least and greatest has the median for all three."""

    tables: Mapping[str, Table]

    def find(self, group: str, subject: str, load: str, figure: str) -> Seen:
        column = _HEADS.get(figure)
        for title in _TITLES:
            table = self.tables.get(f"{group}: {title}")
            for line in table.lines if table else ():
                if table is None or line[:2] != [subject, load]:
                    continue
                if column in table.header:
                    return _cell(line[table.header.index(column)])
                if line[2] == figure:
                    return Seen(*map(float, line[3:6]))
        raise _missing(group, subject, load, figure)


def figures_of(raw: Any, name: str) -> tuple[dict[str, Figure], Shape]:
    """The figures that a bench can say, from its JSON; ``name`` is the file's.

    Raises:
        BenchFormatError: that is no JSON of a bench, or it has not measured enough.
    """
    try:
        file = _File.model_validate(raw)
        cores = float(file.machine["cores"])
    except (ValidationError, KeyError, ValueError) as error:
        raise BenchFormatError("this is no result of make bench") from error
    bench, day = file.bench(), file.finished_at.date()

    def figure(seen: Seen, unit: str, source: str) -> Figure:
        low, mid, high = (significant(value) for value in (seen.low, seen.mid, seen.high))
        return Figure(mid=mid, low=low, high=high, unit=unit, kind="measured", date=day, source=f"{name}: {source}")

    found = {
        "replica_cores": figure(Seen(cores, cores, cores), "cores", "machine"),
        **{
            each: figure(seen, "core ms", source)
            for each, (seen, source) in {"front_ms": _front(bench, cores), **_searches(bench, cores)}.items()
        },
        "beside_ms": figure(
            _beside(bench, cores),
            "core ms",
            "overload: cpu_ms + client_cpu_ms at 50% (70%) of capacity, without 1000 * cores / answers/s at capacity",
        ),
        "private_gb": figure(_private(bench), "GB", "sizes, once: resident_mb - index_mb; million: second_process_share"),
    }
    return found, _shape(bench, name)


def _answer(bench: Bench, cores: float, subject: str) -> Seen:
    """Milliseconds of a core for an answer, idle ones and the client's included: spread as the latency of a closed loop is."""
    mid = 1000 * cores / bench.find("sizes", subject, _LOAD, "accepted_per_second").mid
    p50 = bench.find("sizes", subject, _LOAD, "p50_ms")
    return Seen(mid, mid * p50.low / p50.mid, mid * p50.high / p50.mid)


def _front(bench: Bench, cores: float) -> tuple[Seen, str]:
    answer, search = _answer(bench, cores, "hnsw 100000"), bench.find("floor", "floor", "c=1", "search_p50_ms")
    seen = Seen(*(each - search.mid for each in (answer.mid, answer.low, answer.high)))
    return seen, f"sizes, hnsw 100000, {_LOAD}: 1000 * cores / answers/s, spread as its p50, without the floor's search_p50_ms"


def _searches(bench: Bench, cores: float) -> dict[str, tuple[Seen, str]]:
    front_ms = _front(bench, cores)[0].mid
    subjects = {"ivf_ms_100k": "ivfpq 100000", "hnsw_ms_1m": "hnsw 1000000", "ivf_ms_1m": "ivfpq 1000000"}
    found = {"hnsw_ms_100k": (bench.find("floor", "floor", "c=1", "search_p50_ms"), "floor, c=1: search_p50_ms")}
    for name, subject in subjects.items():
        answer = _answer(bench, cores, subject)
        seen = Seen(*(max(0.01, each - front_ms) for each in (answer.mid, answer.low, answer.high)))
        found[name] = seen, f"sizes, {subject}, {_LOAD}: 1000 * cores / answers/s, spread as its p50, without front_ms"
    return found


def _beside(bench: Bench, cores: float) -> Seen:
    """What an arrival costs that comes at random, to threads that sleep, over one of a closed loop that keeps them awake."""
    closed_ms = 1000 * cores / bench.find("overload", "ours", "capacity", "accepted_per_second").mid
    found = [
        max(0.0, sum(bench.find("overload", "ours", load, each).mid for each in ("cpu_ms", "client_cpu_ms")) - closed_ms)
        for load in ("50%", "70%")
    ]
    return Seen(found[0], min(found), max(found))


def _private(bench: Bench) -> Seen:
    """Of a process, what it does not share: between what a second one adds and all that a first one holds beside the index."""
    beside = []
    for size in (10_000, 100_000, 1_000_000):
        resident, index = (bench.find("sizes", f"hnsw {size}", "once", each).mid for each in ("resident_mb", "index_mb"))
        beside.append((resident - index) / 1000)
    million = bench.find("sizes", "hnsw 1000000", "once", "index_mb").mid / 1000
    second = bench.find("million", "ours", "c=1", "second_process_share").mid * million
    return Seen(statistics.median(beside), min(second, *beside), max(second, *beside))


def _shape(bench: Bench, name: str) -> Shape:
    """Of one request at a time; the least, which no table has, is as far below the median as the 95th percentile is above."""
    found = {figure: bench.find("closed", "ours", "c=1", figure).mid for figure in _SHARES}
    least = max(0.0, 2 * found["p50_ms"] - found["p95_ms"])
    source = f"{name}: closed, ours, c=1; the least is as far below p50 as p95 is above"
    return Shape(shares=(0.0, *_SHARES.values()), quantiles_ms=(significant(least), *found.values()), source=source)


def _cell(text: str) -> Seen:
    if match := _SPREAD.match(text):
        return Seen(*map(float, match.groups()))
    return Seen(*[float(text)] * 3)


def _missing(group: str, subject: str, load: str, figure: str) -> BenchFormatError:
    return BenchFormatError(f"it has no {figure} of {subject} at {load} in the group {group}")
