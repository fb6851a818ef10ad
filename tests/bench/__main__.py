"""``make bench``: floors, service and rivals, interleaved in one run; tables, one line a goal, and JSON.

``python -m tests.bench report RESULT`` writes docs/performance.md and its pictures from that JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import against_floor, batches, budget, closed, filters, million, overload, sizes, zipf
from tests.bench.figures import Rows
from tests.bench.library import Library
from tests.bench.page import write_page
from tests.bench.result import finished, read_result
from tests.bench.session import Group, Session
from tests.bench.table import goal_sheet, sheets, show

_MODULES = (against_floor, closed, overload, batches, budget, million, sizes, zipf, filters)
GROUPS: dict[str, Group] = {module.GROUP: module.run for module in _MODULES}
_SIZES = (10_000, 100_000, 1_000_000)
_DATA = Path("../shared/data/tldr")
_DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] == "report":
        parser = argparse.ArgumentParser(prog="python -m tests.bench report", description="Write docs/performance.md.")
        parser.add_argument("result", type=Path, help="JSON that a run wrote")
        parser.add_argument("--docs", type=Path, default=_DOCS, help="folder of the page")
        given = parser.parse_args(arguments[1:])
        write_page(read_result(given.result), given.docs)
    else:
        measure(arguments)


def measure(arguments: Sequence[str]) -> None:
    """Run the groups asked for; print and write what they found."""
    given = _parser().parse_args(arguments)
    rows = tuple(sorted(given.sizes or (_SIZES[:2] if given.quick else _SIZES)))
    rounds, seconds = given.rounds or (2 if given.quick else 5), given.seconds or (1.0 if given.quick else 3.0)
    session = Session(Library(given.cache, given.data), rows, rounds, seconds)
    groups = given.only or tuple(GROUPS)
    for name in groups:
        GROUPS[name](session)
    result = finished(_command(arguments), _about(session), session.rows)
    result.write(given.json)
    show([*sheets(Rows(result.rows), groups), goal_sheet(result.verdicts)], result.verdicts)


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["make bench", *([f"ARGS='{' '.join(arguments)}'"] if arguments else [])])


def _about(session: Session) -> dict[str, str]:
    corpus = session.library.corpus
    return {
        "texts": f"{corpus.source}: {len(corpus.titles)} real documents, {len(corpus.asked)} queries asked",
        "documents beyond the real ones": "synthetic vectors clustered around real ones",
        "query towers": "two layers of all-MiniLM-L6-v2 with a linear map to the whole, fp32 (int8 where it says so); or all six",
        "sizes": ", ".join(map(str, session.sizes)),
        "rounds": f"{session.rounds}, {session.seconds:g} s a load",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", type=_groups, help=f"groups, separated by commas, of: {', '.join(GROUPS)}")
    parser.add_argument("--sizes", type=_numbers, help="numbers of documents, separated by commas")
    parser.add_argument("--quick", action="store_true", help="sizes to 100,000, two rounds of a second: a few minutes")
    parser.add_argument("--rounds", type=int, help="5 unless quick")
    parser.add_argument("--seconds", type=float, help="a load is measured in a round: 3 unless quick")
    parser.add_argument("--data", type=Path, default=_DATA, help="folder in BEIR layout; without it, the embedded corpus")
    parser.add_argument("--cache", type=Path, default=Path("work/bench"), help="where towers, indexes and snapshots are kept")
    parser.add_argument("--json", type=Path, default=Path("work/bench/result.json"), help="where the result goes")
    return parser


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no group {unknown[0]!r}; there are: {', '.join(GROUPS)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main(sys.argv[1:])
