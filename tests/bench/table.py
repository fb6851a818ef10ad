"""Rows as tables: cells of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Row, Rows, Spread
from tests.bench.goals import Verdict

ACCEPTED: Mapping[str, str] = {
    "p50_ms": "p50 ms",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "p999_ms": "p99.9",
    "max_ms": "max",
    "accepted_per_second": "answers/s",
    "good_share": "in budget",
    "cpu_ms": "CPU ms",
    "failed": "failed",
    "client_cpu_ms": "client's CPU ms",
    "client_lag_p99_ms": "client's lag p99 ms",
}
"""Figures of a load, and how they are headed."""
_TAILS = {"p50_ms": "p50 ms", "p95_ms": "p95", "p99_ms": "p99", "p999_ms": "p99.9"}
TURNED_AWAY: Mapping[str, str] = {
    "offered_per_second": "offered/s",
    "good_per_second": "good/s",
    "refused_share": "refused",
    **{
        f"refused_{name}_ms": f"429 {head}"
        for name, head in (("p50", "p50 ms"), ("p95", "p95"), ("p99", "p99"), ("p999", "p99.9"))
    },
    "late_share": "late",
    **{f"late_{name}": f"504 {head}" for name, head in _TAILS.items()},
}
"""Of those that were not answered 200."""
_HIDDEN = {*ACCEPTED, *TURNED_AWAY, "refused_max_ms", "late_max_ms"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of text."""

    title: str
    header: list[str]
    lines: list[list[str]]


def sheets(rows: Rows, groups: Sequence[str]) -> list[Sheet]:
    """The tables of each group that was measured."""
    found = []
    for group in groups:
        same = _by_load(rows.of(group))
        found += [
            _loads(f"{group}: answers 200", same, ACCEPTED, needs="p50_ms"),
            _loads(f"{group}: refused (429) and late (504)", _turning_away(same), TURNED_AWAY, needs="late_share"),
            _others(f"{group}: other figures", same),
        ]
    return [sheet for sheet in found if sheet.lines]


def goal_sheet(verdicts: Sequence[Verdict]) -> Sheet:
    """The goals, one a line."""
    return Sheet("goals", ["goal", "figure", "least", "greatest", "bound", ""], [_goal(verdict) for verdict in verdicts])


def show(found: Sequence[Sheet], verdicts: Sequence[Verdict]) -> None:
    """Print the tables and, for machines, one line a goal."""
    console = Console(width=170)
    for sheet in found:
        table = Table(*sheet.header, title=sheet.title, title_justify="left")
        for line in sheet.lines:
            table.add_row(*line)
        console.print(table)
    for verdict in verdicts:
        print(verdict.line())


def number(value: float) -> str:
    """Three digits that count, no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.4f}" if 0.9 < abs(value) < 1 else f"{value:.3g}"


def _loads(title: str, loads: Sequence[Sequence[Row]], columns: Mapping[str, str], needs: str) -> Sheet:
    """A line a load: medians of the rounds, the first figure with its least and greatest."""
    kept = [rows for rows in loads if any(needs in row.figures for row in rows)]
    used = [name for name in columns if any(name in row.figures for rows in kept for row in rows)]
    lines = [[rows[0].subject, rows[0].load, *(_cell(rows, name, name == used[0]) for name in used)] for rows in kept]
    return Sheet(title, ["what", "load", *(columns[name] for name in used)], lines)


def _cell(rows: Sequence[Row], name: str, with_spread: bool) -> str:
    values = [row.figures[name] for row in rows if name in row.figures]
    if not values:
        return ""
    spread = Spread.of(values)
    return (
        f"{number(spread.median)} [{number(spread.least)}, {number(spread.greatest)}]" if with_spread else number(spread.median)
    )


def _others(title: str, loads: Sequence[Sequence[Row]]) -> Sheet:
    lines = []
    for rows in loads:
        for name in dict.fromkeys(name for row in rows for name in row.figures if name not in _HIDDEN):
            spread = Spread.of([row.figures[name] for row in rows if name in row.figures])
            lines.append([rows[0].subject, rows[0].load, name, *map(number, (spread.median, spread.least, spread.greatest))])
    return Sheet(title, ["what", "load", "figure", "median", "least", "greatest"], lines)


def _turning_away(loads: Sequence[list[Row]]) -> list[list[Row]]:
    shares = ("refused_share", "late_share")
    return [rows for rows in loads if any(row.figures.get(share, 0) > 0 for row in rows for share in shares)]


def _goal(verdict: Verdict) -> list[str]:
    figures = map(number, (verdict.figure, verdict.least, verdict.greatest))
    return [verdict.what, *figures, verdict.bound, "ok" if verdict.is_met else "short"]


def _by_load(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.subject, row.load), []).append(row)
    return list(found.values())
