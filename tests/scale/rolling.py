"""``python -m tests.scale.rolling``: three replicas behind HAProxy, replaced one by one under load; a line a goal.

Replicas are services over toy snapshots in which each search waits for 20 ms on a thread (tests/load/slow_service.py):
what is measured is queues, doors, draining and the balancer's choice, for which the cores of one machine are enough. The
load is 70% of what the fleet was measured to do, and waits for nobody. What a start costs is on the same cores, and is in
the figures.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offline.progress import say
from snapshot.registry import Registry
from tests.balancer import balanced
from tests.bench.client import Sockets
from tests.bench.figures import Row, Rows, of_latencies
from tests.bench.goals import Goal, Values, judge
from tests.bench.loads import Outcome, arriving, closed_loop, poisson
from tests.bench.session import search
from tests.live import Live, start, until
from tests.make_snapshot import WORDS, make_snapshot

GROUP = "replicas"
STEADY, RESTART, SWAP, SLOW = "steady", "rolling restart", "rolling swap", "one slow replica"
SHARE = 0.7
_REPLICAS = 3
_SLOW_MS = 20.0
_SLOWER = 5
"""Times as long as the others, a search of the slow replica."""
_THREADS = 2
_CONNECTIONS = 128
_WAIT_SECONDS = 900.0
"""For what takes seconds on a quiet machine, which figures need anyway."""
_SETTLE_SECONDS = 2.0
_MOST_SECONDS = 1800.0
_SERVED = re.compile(r" search replicas/replica(\d+) .* 200 ")


def figure(load: str, name: str) -> Values:
    return lambda rows: rows.values(GROUP, "fleet", load, name)


GOALS = (
    Goal("replicas_restart_failed", "requests that failed in a rolling restart", "<=", 0, figure(RESTART, "failed")),
    Goal("replicas_swap_failed", "requests that failed in a rolling swap", "<=", 0, figure(SWAP, "failed")),
    Goal("replicas_restart_p99_ratio", "p99 in a rolling restart, over steady", "<=", 1.2, figure(RESTART, "p99_ratio")),
    Goal("replicas_swap_p99_ratio", "p99 in a rolling swap, over steady", "<=", 1.2, figure(SWAP, "p99_ratio")),
    Goal("replicas_slow_failed", "requests that failed beside a slow replica", "<=", 0, figure(SLOW, "failed")),
    Goal("replicas_slow_p99_share", "p99 beside a slow replica, over its own search", "<=", 1.0, figure(SLOW, "p99_share")),
)


@dataclass(eq=False)
class Load(threading.Thread):
    """Searches at a pace, whatever becomes of them, until the block ends; times by ``time.monotonic``."""

    port: int
    per_second: float
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(name="load")
        self._plan = poisson([search(word) for word in WORDS], self.per_second, _MOST_SECONDS, seed=0)
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
    """Replicas behind a balancer."""

    folder: Path
    registry: Registry
    lives: list[Live] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator[Fleet]:
        with ExitStack() as undo:
            undo.callback(lambda: [live.stop() for live in self.lives])
            self.lives = [self._start() for _ in range(_REPLICAS)]
            for live in self.lives:
                until(live, live.ready, "ready", _WAIT_SECONDS)
            self.port = undo.enter_context(balanced(self.folder, [live.port for live in self.lives]))
            yield self

    def restart(self, number: int, slow_ms: float = _SLOW_MS) -> None:
        """Replace a replica; done when the balancer has seen the new one ready."""
        seen, old = self._ups(number), self.lives[number]
        old.stop()
        self.lives[number] = new = self._start(slow_ms, old.port)
        until(new, lambda: self._ups(number) > seen, "seen ready by the balancer", _WAIT_SECONDS)

    def swap(self, snapshot_id: str) -> None:
        """Activate a snapshot; done when all serve it."""
        self.registry.activate(snapshot_id, "measured", who="tests")
        for live in self.lives:
            until(live, lambda live=live: live.get("/info")[1]["serving"] == snapshot_id, "serving it", _WAIT_SECONDS)

    def capacity(self, seconds: float) -> float:
        """Answers 200 a second in a closed loop that keeps every thread busy."""
        connections = _REPLICAS * _THREADS * 2
        with Sockets(self.port, connections) as wire:
            load = closed_loop(wire, connections, [search(word) for word in WORDS], seconds)
        return sum(one.status == 200 for one in load.outcomes) / load.seconds

    def served(self) -> Counter[int]:
        """Answers 200 so far by replica, as the balancer has logged them."""
        return Counter(int(number) for number in _SERVED.findall(self._log()))

    def _start(self, slow_ms: float = _SLOW_MS, port: int | None = None) -> Live:
        flags = ("--threads", str(_THREADS), "--query-cache-bytes", "0", "--batching", "off", "--drain-min-seconds", "2")
        program = ("-m", "tests.load.slow_service")
        return start(self.folder, self.registry.root, "--slow-ms", f"{slow_ms:g}", *flags, program=program, port=port)

    def _ups(self, number: int) -> int:
        return self._log().count(f"Server replicas/replica{number} is UP")

    def _log(self) -> str:
        return (self.folder / "haproxy.log").read_text()


def measure(seconds: float, folder: Path) -> list[Row]:
    """A row for each of what is done; steady windows are as long as ``seconds``."""
    registry = Registry(folder / "registry")
    first, second = (
        registry.publish(make_snapshot(folder / "made", rows=500, kind="hnsw", seed=seed).root).id for seed in (0, 1)
    )
    registry.activate(first, "measured", who="tests")
    with Fleet(folder, registry).running() as fleet:
        fleet.capacity(1.0)
        most = fleet.capacity(seconds)
        say(f"{most:.0f} searches a second at most; {SHARE * most:.0f} are sent")
        with Load(fleet.port, SHARE * most) as load:
            windows = dict(_windows(fleet, second, seconds))
            time.sleep(_SETTLE_SECONDS)
    figures = {
        name: figures_of(load.within(*window)) for name, window in windows.items() if name in (STEADY, RESTART, SWAP, SLOW)
    }
    for name in (RESTART, SWAP, SLOW):
        figures[name]["p99_ratio"] = figures[name]["p99_ms"] / figures[STEADY]["p99_ms"]
    figures[SLOW]["p99_share"] = figures[SLOW]["p99_ms"] / (_SLOWER * _SLOW_MS)
    figures[SLOW]["slow_one_share"] = windows["share"][0]
    figures[STEADY] |= {"capacity_per_second": most, "sent_per_second": SHARE * most}
    return [Row(GROUP, "fleet", name, 0, found) for name, found in figures.items()]


def _windows(fleet: Fleet, other: str, seconds: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """Begin and end of each; ``share`` is no window, but what the slow replica had of the answers."""
    time.sleep(_SETTLE_SECONDS)
    yield STEADY, _window(STEADY, lambda: time.sleep(seconds))
    time.sleep(_SETTLE_SECONDS)
    yield RESTART, _window(RESTART, lambda: [fleet.restart(number) for number in range(_REPLICAS)])
    time.sleep(_SETTLE_SECONDS)
    yield SWAP, _window(SWAP, lambda: fleet.swap(other))
    fleet.restart(0, _SLOWER * _SLOW_MS)
    time.sleep(_SETTLE_SECONDS)
    before = fleet.served()
    yield SLOW, _window(SLOW, lambda: time.sleep(seconds))
    answered = fleet.served() - before
    yield "share", (answered[0] / max(1, answered.total()), 0.0)


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
