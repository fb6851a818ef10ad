"""``make soak``: a snapshot swapped a hundred times under load; tables, one line a goal, and JSON.

With 10,000 documents (thousands of them real), then with a million; the snapshots are those of ``make bench``, made once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshot.files import write_text
from tests.bench.cache import Cache
from tests.bench.figures import Row, Rows
from tests.bench.goals import judge
from tests.bench.library import Library, Spec
from tests.bench.result import finished
from tests.bench.table import goal_sheet, sheets, show
from tests.soak import commands, swaps
from tests.soak.promises import DEMO, GOALS, MILLION
from tests.soak.swaps import Pace
from tests.soak.trio import Trio, make_trio

_ROWS = {DEMO: 10_000, MILLION: 1_000_000}
_DATA = Path("../shared/data/tldr")
_COLUMN = "title"


@dataclass(frozen=True)
class _Plan:
    """What is run."""

    groups: tuple[str, ...]
    pace: Pace
    rounds: int
    warm_seconds: float


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    plan = _plan(given)
    library, rows = Library(given.cache, given.data), []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for group in plan.groups:
            trio = _trio(library, given.cache, group)
            rows += _measure(group, trio, plan, Path(folder))
    return _report(rows, plan, given, arguments)


def _trio(library: Library, cache: Path, group: str) -> Trio:
    registry = library.open(Spec(_ROWS[group], "hnsw"))
    layout = registry.layout(registry.current() or "")
    return make_trio(Cache(cache), layout, _COLUMN, library.corpus.asked)


def _measure(group: str, trio: Trio, plan: _Plan, folder: Path) -> list[Row]:
    by_command = commands.measure(group, trio, plan.rounds, plan.warm_seconds, folder)
    return [*by_command, *swaps.measure(group, trio, plan.pace, folder)]


def _report(rows: list[Row], plan: _Plan, given: argparse.Namespace, arguments: Sequence[str]) -> int:
    about = {"swaps": str(plan.pace.swaps), "load": f"{swaps.SHARE:.0%} of the capacity", "rounds": str(plan.rounds)}
    command = " ".join(["make soak", *([f"ARGS='{' '.join(arguments)}'"] if arguments else [])])
    result, verdicts = finished(command, about, rows), judge(Rows(rows), GOALS)
    write_text(given.json, result.model_dump_json())
    show([*sheets(Rows(rows), plan.groups), goal_sheet(verdicts)], verdicts)
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


def _plan(given: argparse.Namespace) -> _Plan:
    groups = given.only or ((DEMO,) if given.quick else (DEMO, MILLION))
    if given.quick:
        return _Plan(groups, Pace(given.swaps or 8, 4, 1.0, 1.5), 1, 1.0)
    return _Plan(groups, Pace(given.swaps or 100, 10, 2.0, 5.0), 5, 5.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 documents, eight swaps: ten minutes")
    parser.add_argument("--swaps", type=int, help="how many; 100 unless quick")
    parser.add_argument("--only", type=_groups, help=f"groups, separated by commas, of: {', '.join(_ROWS)}")
    parser.add_argument("--data", type=Path, default=_DATA, help="folder in BEIR layout; without it, the embedded corpus")
    parser.add_argument("--cache", type=Path, default=Path("work/bench"), help="where the snapshots of the bench are kept")
    parser.add_argument("--json", type=Path, default=Path("work/soak/result.json"), help="where the result goes")
    return parser


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in _ROWS]:
        raise argparse.ArgumentTypeError(f"there is no group {unknown[0]!r}; there are: {', '.join(_ROWS)}")
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
