"""``python -m tests.scale.capacity``: writes the tables of docs/capacity.md anew from docs/performance.json."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.markdown import table
from offline.plan.bench import Table, Tables
from offline.plan.figures import significant
from snapshot.files import write_text

DOCS = Path(__file__).parents[2] / "docs"
PAGE, BENCH = "capacity.md", "performance.json"
BEGIN, END = "<!-- tables: python -m tests.scale.capacity -->", "<!-- end of tables -->"
_LOADS = ("50%", "70%", "90%", "300%")
_QPS = (100, 500, 1000, 2000, 5000, 10_000)
_SNAPSHOTS = ("hnsw 10000", "hnsw 100000", "ivfpq 100000", "hnsw 1000000", "ivfpq 1000000")
_LIGHT = 0.5
"""Of the capacity: the load at which the bench refused nothing and was late with nothing."""


@dataclass(frozen=True)
class Capacity:
    """Answers a second of one replica, and the least of what its rounds say."""

    answers: float
    least: float

    def replicas(self, qps: float) -> int:
        """For so many searches a second, each replica as busy as ``_LIGHT``, and one more that may be down."""
        return math.ceil(qps / (_LIGHT * self.least)) + 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.capacity", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page and of performance.json")
    docs = parser.parse_args(argv).docs
    page = (docs / PAGE).read_text(encoding="utf-8")
    write_text(docs / PAGE, renewed(page, json.loads((docs / BENCH).read_text(encoding="utf-8"))))
    return 0


def renewed(page: str, bench: Mapping[str, Any]) -> str:
    """The page with the tables of ``bench`` in place of those it has."""
    return replaced(page, BEGIN, END, tables(bench))


def replaced(page: str, begin: str, end: str, text: str) -> str:
    """The page with ``text`` between two of its lines."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def tables(bench: Mapping[str, Any]) -> str:
    """What one replica answers, what it does with more, and how many it takes."""
    found = Tables({each["title"]: Table.model_validate(each) for each in bench["tables"]})
    machine = bench["machine"]
    intro = (
        f"From `{bench['command']}` on commit {bench['commit']}, {bench['finished_at'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, which the client shares."
    )
    return "\n\n".join([intro, _answers(found), _loads(found), _replicas(found)])


def capacity(found: Tables, snapshot: str) -> Capacity:
    """The most that a closed loop of eight connections got; the least, as much lower as its median was slower in a round."""
    answers = found.find("sizes", snapshot, "c=8", "accepted_per_second").mid
    p50 = found.find("sizes", snapshot, "c=8", "p50_ms")
    return Capacity(answers, answers * p50.mid / p50.high)


def _answers(found: Tables) -> str:
    rows = []
    for snapshot in _SNAPSHOTS:
        each, alone = capacity(found, snapshot), found.find("sizes", snapshot, "c=1", "p99_ms")
        memory_mb = found.find("sizes", snapshot, "once", "resident_mb").mid
        numbers = (each.answers, each.least, alone.mid, memory_mb)
        rows.append([snapshot, *(f"{significant(number):g}" for number in numbers)])
    cached = found.find("zipf", "with cache", "c=8", "accepted_per_second").mid
    plain = found.find("zipf", "without cache", "c=8", "accepted_per_second").mid
    title = "One replica, without its cache of query vectors: at most"
    times = cached / plain
    note = f"With the cache, and queries that repeat as people's do (Zipf), 10,000 documents answer {times:.1f} times as many."
    header = ["snapshot", "answers a second", "the least of the rounds", "p99 of a search alone, ms", "resident, MB"]
    return f"{title}\n\n{table(header, rows)}\n\n{note}"


def _loads(found: Tables) -> str:
    most = found.find("overload", "ours", "capacity", "accepted_per_second").mid
    rows = []
    for load in _LOADS:
        p50, p99, answers = (
            found.find("overload", "ours", load, each).mid for each in ("p50_ms", "p99_ms", "accepted_per_second")
        )
        in_budget = found.find("overload", "ours", load, "good_share").mid
        rows.append([load, f"{answers:g}", f"{p50:g}", f"{p99:g}", f"{in_budget:.2%}"])
    header = ["load", "answers a second", "p50 ms", "p99 ms", "within 50 ms, of all that came"]
    title = f"One replica, 100,000 documents, arrivals at random and a budget of 50 ms, at shares of {most:g} a second:"
    return f"{title}\n\n{table(header, rows)}\n\n{_refusals(found, most)}"


def _refusals(found: Tables, most: float) -> str:
    offered, answered = (
        found.find("overload", "ours", "300%", each).mid for each in ("offered_per_second", "accepted_per_second")
    )
    calm, busy = (found.find("overload", "ours", load, "cpu_ms").mid for load in ("capacity", "300%"))
    each_ms = (busy - calm) * answered / (offered - answered)
    return (
        f"At 300% {1 - answered / most:.0%} of the answers are lost to refusing {offered - answered:.0f} a second: the CPU of "
        f"an answer rises from {calm:g} to {busy:g} ms, which is {significant(each_ms, 2):g} ms for each that is refused."
    )


def _replicas(found: Tables) -> str:
    rows = [[snapshot, *(str(capacity(found, snapshot).replicas(qps)) for qps in _QPS)] for snapshot in _SNAPSHOTS]
    header = ["snapshot", *(f"{qps:,}/s" for qps in _QPS)]
    return f"Replicas of two cores, each at {_LIGHT:.0%} of the least that it answers, and one spare:\n\n{table(header, rows)}"


if __name__ == "__main__":
    raise SystemExit(main())
