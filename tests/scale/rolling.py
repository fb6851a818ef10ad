"""``python -m tests.scale.rolling``: three replicas behind HAProxy, replaced one by one under load; a line a goal.

Replicas are services over toy snapshots in which each search waits for 20 ms on a thread (tests/load/slow_service.py):
what is measured is queues, doors, draining and the balancer's choice, for which the cores of one machine are enough. What a
start costs is on the same cores, and is in the figures, though root's replicas start with less urgency than the others run.
The load waits for nobody. It is 70% of what the fleet was measured to do; beside a slow replica 50%, which the two others can
do, and with a budget that the slow one cannot keep.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offline.progress import say
from snapshot.registry import Registry
from tests.balancer import INSTALL, balanced, found_haproxy
from tests.bench.client import Sockets
from tests.bench.figures import Row, Rows, of_latencies
from tests.bench.goals import Goal, Values, judge
from tests.bench.loads import Outcome, arriving, closed_loop, poisson
from tests.bench.session import search
from tests.live import Live, free_port, start, until
from tests.make_snapshot import WORDS, make_snapshot

GROUP = "replicas"
STEADY, RESTART, SWAP, SLOW = "steady", "rolling restart", "rolling swap", "one slow replica"
SHARE, SLOW_SHARE = 0.7, 0.5
_REPLICAS = 3
_SLOW_MS = 20.0
_SLOWER = 5
"""Times as long as the others, a search of the slow replica."""
_BUDGET_MS = 90.0
"""Beside the slow replica: less than its search takes, four of the others'."""
_ROUNDS = 3
"""Each replica is replaced so often, and twice as many swaps are made: a p99 wants thousands of requests."""
_THREADS = 2
_CONNECTIONS = 128
_WAIT_SECONDS = 900.0
"""For what takes seconds on a quiet machine, which figures need anyway."""
_SETTLE_SECONDS = 2.0
_MOST_SECONDS = 1800.0
_STARTING = 10
"""Niceness of a replica until it is ready: where replicas have machines of their own, a start takes nothing from the others."""
_MAY_HURRY = Path("/proc/self/task").exists() and os.geteuid() == 0
"""Whether niceness can be set thread by thread, as on Linux, and taken back, which only root may."""
_SERVED = re.compile(r" search replicas/replica(\d+) .* 200 ")


def figure(load: str, name: str) -> Values:
    return lambda rows: rows.values(GROUP, "fleet", load, name)


GOALS = (
    Goal("replicas_restart_failed", "requests that failed in a rolling restart", "<=", 0, figure(RESTART, "failed")),
    Goal("replicas_swap_failed", "requests that failed in a rolling swap", "<=", 0, figure(SWAP, "failed")),
    Goal("replicas_restart_p99_ratio", "p99 in a rolling restart, over steady", "<=", 1.2, figure(RESTART, "p99_ratio")),
    Goal("replicas_swap_p99_ratio", "p99 in a rolling swap, over steady", "<=", 1.2, figure(SWAP, "p99_ratio")),
    Goal("replicas_slow_failed", "requests that failed beside a slow replica", "<=", 0, figure(SLOW, "failed")),
    Goal("replicas_slow_late_share", "requests later than a slow replica's search", "<=", 0.01, figure(SLOW, "late_share")),
)


@dataclass(eq=False)
class Load(threading.Thread):
    """Searches at a pace, whatever becomes of them, until the block ends; times by ``time.monotonic``."""

    port: int
    per_second: float
    budget: Mapping[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(name="load")
        self._plan = poisson([search(word, **self.budget) for word in WORDS], self.per_second, _MOST_SECONDS, seed=0)
        self._over = threading.Event()
        self.begun = 0.0

    def run(self) -> None:
        with Sockets(self.port, _CONNECTIONS) as wire:
            self.begun = time.monotonic()
            self.outcomes.extend(arriving(wire, _CONNECTIONS, self._plan, time.monotonic, self._over.is_set))

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def within(self, begin: float, end: float) -> list[Outcome]:
        """Those that were due then."""
        return [one for one in self.outcomes if begin <= self.begun + one.due < end]


@dataclass(eq=False)
class Fleet:
    """Replicas behind a balancer that knows one place more than there are replicas: the next one starts there.

    So Kubernetes replaces them (maxSurge 1, maxUnavailable 0), and so it must be at 70% of what three can do, which is more
    than two can.
    """

    folder: Path
    registry: Registry
    lives: dict[int, Live] = field(default_factory=dict)
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(_REPLICAS + 1)])
    port: int = 0

    @contextmanager
    def running(self) -> Iterator[Fleet]:
        with ExitStack() as undo:
            undo.callback(lambda: [live.stop() for live in self.lives.values()])
            self.lives = {place: self._start(place) for place in range(_REPLICAS)}
            for live in self.lives.values():
                until(live, live.ready, "ready", _WAIT_SECONDS)
            self.port = undo.enter_context(balanced(self.folder, self.ports))
            yield self

    def replace(self, old: int, slow_ms: float = _SLOW_MS) -> int:
        """Start one in the free place and end the old one when the balancer has seen the new one ready; the new one's place."""
        (free,) = set(range(len(self.ports))) - self.lives.keys()
        seen = self._ups(free)
        self.lives[free] = new = self._start(free, slow_ms)
        if _MAY_HURRY:
            _set_niceness(new, _STARTING)
        until(new, lambda: self._ups(free) > seen, "seen ready by the balancer", _WAIT_SECONDS)
        if _MAY_HURRY:
            _set_niceness(new, 0)
        self.lives.pop(old).stop()
        return free

    def swap(self, snapshot_id: str) -> None:
        """Activate a snapshot; done when all serve it."""
        self.registry.activate(snapshot_id, "measured", who="tests")
        for live in self.lives.values():
            until(live, lambda live=live: _serves(live, snapshot_id), "serving it", _WAIT_SECONDS)

    def capacity(self, seconds: float) -> float:
        """Answers 200 a second in a closed loop that keeps every thread busy."""
        connections = _REPLICAS * _THREADS * 2
        with Sockets(self.port, connections) as wire:
            load = closed_loop(wire, connections, [search(word) for word in WORDS], seconds)
        return sum(one.status == 200 for one in load.outcomes) / load.seconds

    def served(self) -> Counter[int]:
        """Answers 200 so far by replica, as the balancer has logged them."""
        return Counter(int(number) for number in _SERVED.findall(self._log()))

    def _start(self, place: int, slow_ms: float = _SLOW_MS) -> Live:
        flags = ("--threads", str(_THREADS), "--query-cache-bytes", "0", "--batching", "off", "--drain-min-seconds", "2")
        program = ("-m", "tests.load.slow_service")
        return start(
            self.folder, self.registry.root, "--slow-ms", f"{slow_ms:g}", *flags, program=program, port=self.ports[place]
        )

    def _ups(self, number: int) -> int:
        return self._log().count(f"Server replicas/replica{number} is UP")

    def _log(self) -> str:
        return (self.folder / "haproxy.log").read_text()


def _set_niceness(live: Live, niceness: int) -> None:
    """Of all threads that it has by now; those to come take after them."""
    for task in Path(f"/proc/{live.process.pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)


def _serves(live: Live, snapshot_id: str) -> bool:
    info = live.get("/info")[1]
    if error := info["last_error"]:
        raise RuntimeError(f"a replica does not take the snapshot: {error['reason']}")
    return bool(info["serving"] == snapshot_id)


def measure(seconds: float, folder: Path) -> list[Row]:
    """A row for each of what is done; steady windows are as long as ``seconds``."""
    registry = Registry(folder / "registry")
    # Of one seed, thus of one space: the gate would refuse documents that rank in another way than those that serve.
    first, second = (registry.publish(make_snapshot(folder / "made", rows=rows, kind="hnsw").root).id for rows in (500, 502))
    registry.activate(first, "measured", who="tests")
    with Fleet(folder, registry).running() as fleet:
        fleet.capacity(1.0)
        most = fleet.capacity(seconds)
        say(f"{most:.0f} searches a second at most; {SHARE * most:.0f} are sent")
        with Load(fleet.port, SHARE * most) as load:
            windows = dict(_windows(fleet, (second, first), seconds))
            time.sleep(_SETTLE_SECONDS)
        figures = {name: figures_of(load.within(*window)) for name, window in windows.items()}
        figures[SLOW] = _beside_a_slow_one(fleet, SLOW_SHARE * most, seconds)
    for name in (RESTART, SWAP):
        figures[name]["p99_ratio"] = figures[name]["p99_ms"] / figures[STEADY]["p99_ms"]
    figures[STEADY] |= {"capacity_per_second": most, "sent_per_second": SHARE * most}
    return [Row(GROUP, "fleet", name, 0, found) for name, found in figures.items()]


def _windows(fleet: Fleet, swaps: tuple[str, str], seconds: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """Begin and end of each."""
    time.sleep(_SETTLE_SECONDS)
    yield STEADY, _window(STEADY, lambda: time.sleep(seconds))
    time.sleep(_SETTLE_SECONDS)
    yield RESTART, _window(RESTART, lambda: [fleet.replace(place) for _ in range(_ROUNDS) for place in list(fleet.lives)])
    time.sleep(_SETTLE_SECONDS)
    yield SWAP, _window(SWAP, lambda: [fleet.swap(snapshot_id) for _ in range(_ROUNDS) for snapshot_id in swaps])


def _beside_a_slow_one(fleet: Fleet, per_second: float, seconds: float) -> dict[str, float]:
    slow = fleet.replace(next(iter(fleet.lives)), _SLOWER * _SLOW_MS)
    with Load(fleet.port, per_second, {"timeout_ms": _BUDGET_MS}) as load:
        time.sleep(_SETTLE_SECONDS)
        before = fleet.served()
        window = _window(SLOW, lambda: time.sleep(seconds))
        answered = fleet.served() - before
        time.sleep(_SETTLE_SECONDS)
    found = figures_of(load.within(*window))
    found["slow_one_share"] = answered[slow] / max(1, answered.total())
    found["late_share"] = found["failed"] / found["requests"]
    return found


def _window(name: str, work: Callable[[], object]) -> tuple[float, float]:
    say(name)
    begin = time.monotonic()
    work()
    return begin, time.monotonic()


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    latencies = np.array([one.latency_ms for one in outcomes if one.status == 200])
    failed = Counter(one.status for one in outcomes if one.status != 200)
    named = {f"status_{status}": float(count) for status, count in failed.items()}
    return {"requests": float(len(outcomes)), "failed": float(failed.total()), **named, **of_latencies(latencies)}


def main(argv: Sequence[str]) -> int:
    """0 where every goal is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.rolling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the windows in which nothing is replaced")
    given = parser.parse_args(argv)
    if found_haproxy() is None:
        print(f"rolling: not installed here (no haproxy; Debian: {INSTALL})")
        return 0
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder:
        rows = measure(given.seconds, Path(folder))
    for row in rows:
        print(f"{row.load}: " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(row.figures.items())))
    verdicts = judge(Rows(rows), GOALS)
    for verdict in verdicts:
        print(verdict.line())
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
