"""A load of a process of its own, as long as it is wanted: ``with loaded(...)`` here, ``python -m tests.soak.load`` there.

Arrivals wait for nobody. Half of the searches are for queries that are asked again and again, half for new ones; beside them
go probes of ``/livez``. Each answer is judged when it comes and thrown away.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.bench.client import Sockets, get
from tests.bench.loads import Outcome, Planned, arriving, merged, poisson, steady, undisturbed
from tests.bench.session import search
from tests.live import ENVIRONMENT, ROOT
from tests.soak.answers import Judge, Verdict

LIVEZ = "livez"
_CONNECTIONS = 128
_READY = "ready"


@dataclass(frozen=True)
class Order:
    """What is to be sent.

    Attributes:
        per_second: searches.
        probes_per_second: of ``/livez``.
        most_seconds: it ends then, wanted or not.
        often: queries that are asked again and again.
        seeds: queries that new ones are made of.
        seed: another one makes other new queries and other gaps.
    """

    port: int
    per_second: float
    probes_per_second: float
    most_seconds: float
    often: list[str]
    seeds: list[str]
    seed: int
    marks: dict[str, str]
    column: str
    known: dict[str, list[str]]

    def queries(self) -> list[str]:
        """In the order in which they are sent; more than will be."""
        return [self._query(number) for number in range(int(self.per_second * self.most_seconds * 1.2) + 100)]

    def _query(self, number: int) -> str:
        place = number // 2
        if number % 2:
            return self.often[place % len(self.often)]
        return f"{self.seeds[place % len(self.seeds)]} {self.seed}.{number}"


@dataclass(frozen=True)
class Seen:
    """What came of a load, a row each; times by ``time.monotonic``.

    Attributes:
        is_probe: of ``/livez``, not a search.
        snapshot: place in ``snapshots`` of the one that answered, or -1.
    """

    is_probe: np.ndarray
    due: np.ndarray
    sent: np.ndarray
    finished: np.ndarray
    status: np.ndarray
    snapshot: np.ndarray
    mixed: np.ndarray
    untold: np.ndarray
    snapshots: list[str]

    def within(self, begins: Sequence[float], ends: Sequence[float]) -> np.ndarray:
        """Which were due within any of the windows."""
        windows = zip(begins, ends, strict=True)
        return np.any([(begin <= self.due) & (self.due < end) for begin, end in windows], axis=0)

    def first_from(self, snapshot_id: str, since: float) -> float | None:
        """When the first answer came after ``since`` that names a snapshot."""
        if snapshot_id not in self.snapshots:
            return None
        place = self.snapshots.index(snapshot_id)
        found = self.finished[(self.snapshot == place) & (self.finished > since)]
        return float(found.min()) if len(found) else None


class Loading:
    """A load under way; ``seen`` is there after the block."""

    seen: Seen


@contextmanager
def loaded(order: Order, folder: Path) -> Iterator[Loading]:
    """Send until the block ends."""
    given, out, loading = folder / "order.json", folder / "seen.npz", Loading()
    given.write_text(json.dumps(asdict(order)))
    command = [sys.executable, "-m", "tests.soak.load", str(given), str(out)]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != _READY:
            raise RuntimeError("the load did not start")
        try:
            yield loading
        finally:
            process.communicate("", timeout=60)
    with np.load(out) as found:
        content = {name: found[name] for name in found.files if name != "snapshots"}
        loading.seen = Seen(**content, snapshots=[str(name) for name in found["snapshots"]])


def _main(given: Path, out: Path) -> None:
    order = Order(**json.loads(given.read_text()))
    queries = order.queries()
    requests = [search(query) for query in queries]
    probes = steady(get(f"/{LIVEZ}"), order.probes_per_second, order.most_seconds, LIVEZ)
    plan = merged(poisson(requests, order.per_second, order.most_seconds, order.seed), probes)
    rows = _Rows(Judge(order.marks, order.column, order.known), dict(zip(requests, queries, strict=True)))
    with Sockets(order.port, _CONNECTIONS) as wire, undisturbed():
        print(_READY, flush=True)
        _send(wire, plan, rows)
    rows.save(out)


def _send(wire: Sockets, plan: Sequence[Planned], rows: _Rows) -> None:
    begun = time.monotonic()
    for outcome in arriving(wire, _CONNECTIONS, plan, time.monotonic, _is_over):
        rows.add(outcome, begun)


def _is_over() -> bool:
    """Whether whoever wants the load has closed its end."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


class _Rows:
    """Collects a row an outcome."""

    def __init__(self, judge: Judge, requests: dict[bytes, str]) -> None:
        self._judge = judge
        self._requests = requests
        self._snapshots: list[str] = []
        self._rows: list[tuple[bool, float, float, float, int, int, bool, bool]] = []

    def add(self, outcome: Outcome, begun: float) -> None:
        snapshot, verdict = -1, Verdict.WHOLE
        if outcome.label != LIVEZ and outcome.status == 200:
            named, verdict = self._judge.judge(self._requests[outcome.request], outcome.body)
            if named not in self._snapshots:
                self._snapshots.append(named)
            snapshot = self._snapshots.index(named)
        times = (begun + outcome.due, begun + outcome.sent, begun + outcome.finished)
        told = (verdict is Verdict.MIXED, verdict is Verdict.UNTOLD)
        self._rows.append((outcome.label == LIVEZ, *times, outcome.status, snapshot, *told))

    def save(self, out: Path) -> None:
        names = ("is_probe", "due", "sent", "finished", "status", "snapshot", "mixed", "untold")
        columns = dict(zip(names, map(np.array, zip(*self._rows, strict=True)), strict=True))
        np.savez(out, **columns, snapshots=np.array(self._snapshots))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
