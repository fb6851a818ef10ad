"""A service under test: a process of its own, what can be seen of it from outside, and whether it leaked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live import ROOT, Live, start, until
from tests.load.probe import Seen
from tests.load.report import Report

_SETTLE_SECONDS = 15.0
_WARM_REQUESTS = 40
HEALTH_MS = 50.0


@dataclass(frozen=True)
class State:
    """What a leak would show in."""

    files: int
    threads: int
    resident_mb: float
    connections: float
    open_requests: float
    in_flight: float


class Target(Live):
    """A running service, and what it holds."""

    def state(self) -> State:
        metrics = self.metrics()
        return State(
            self.process.num_fds(),
            self.process.num_threads(),
            self.process.memory_info().rss / 1e6,
            metrics["connections"],
            metrics["open_requests"],
            metrics["in_flight"],
        )


@contextmanager
def running(folder: Path, registry: Path, *flags: str) -> Iterator[Target]:
    """The service over ``registry`` with ``flags``, warm, until the block ends; it must then end well and in time.

    Raises:
        RuntimeError: it did not start, or did not end with 0.
    """
    live = start(folder, registry, *flags, program=("-m", "tests.load.slow_service"))
    target = Target(live.port, live.process, live.log)
    try:
        until(target, target.ready, "ready")
        for _ in range(_WARM_REQUESTS):
            target.metrics()
        yield target
    finally:
        code = target.stop()
    if code != 0:
        raise RuntimeError(f"the service ended with {code}: {target.log.read_text()[-2000:]}")


@contextmanager
def probed(target: Target, searches_per_second: float) -> Iterator[dict[str, Seen]]:
    """A steady load beside the block; what it saw is there after the block."""
    seen: dict[str, Seen] = {}
    command = [sys.executable, "-m", "tests.load.probe", str(target.port), str(searches_per_second)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        try:
            time.sleep(1.0)
            yield seen
        finally:
            said, _ = probe.communicate("", timeout=60)
    for kind, values in json.loads(said).items():
        statuses = {int(status): count for status, count in values["statuses"].items()}
        seen[kind] = Seen(values["latencies_ms"], statuses)


def check_calm(report: Report, seen: dict[str, Seen]) -> None:
    """What the machine gives without any fault: where this is short, the other times say little."""
    for kind in ("livez", "metrics"):
        report.most(f"calm_{kind}_p99_ms", _quantile(seen[kind].latencies_ms, 0.99), HEALTH_MS, timing=True)


def check_served(report: Report, seen: dict[str, Seen], *, refused: bool, still_ms: float) -> None:
    """Others were served: every search (unless ``refused`` may be), and health and metrics within their bound.

    ``still_ms`` is how long the process itself stood still.
    """
    searches = seen["search"]
    good = {200, 429, 504} if refused else {200}
    report.least("searches_sent", len(searches.latencies_ms), 10)
    report.most("searches_failed", sum(count for status, count in searches.statuses.items() if status not in good), 0)
    report.most("search_p99_ms", _quantile(searches.latencies_ms, 0.99), still_ms + (1100 if refused else 250), timing=True)
    for kind in ("livez", "readyz", "metrics"):
        report.most(f"{kind}_failed", sum(count for status, count in seen[kind].statuses.items() if status != 200), 0)
        report.most(f"{kind}_p99_ms", _quantile(seen[kind].latencies_ms, 0.99), still_ms + HEALTH_MS, timing=True)


def check_leaks(report: Report, target: Target, before: State, most_mb: float) -> None:
    """Once the fault is over, all is as it was; waits a while for that."""
    end = time.monotonic() + _SETTLE_SECONDS
    while not _settled(after := target.state(), before) and time.monotonic() < end:
        time.sleep(0.2)
    report.most("files_left", after.files - before.files, 2)
    report.most("threads_left", after.threads - before.threads, (os.cpu_count() or 1) + 4)  # asyncio's own, for scrapes
    report.most("connections_left", after.connections - before.connections, 0)
    report.most("requests_left", after.open_requests - before.open_requests, 0)
    report.most("in_flight_left", after.in_flight - before.in_flight, 0)
    report.most("resident_growth_mb", after.resident_mb - before.resident_mb, most_mb)


def check_log(report: Report, target: Target, most_lines: int) -> None:
    """The log says what happened, and not a million times."""
    lines = [line for line in target.log_lines() if not _may_be_many(line)]
    report.most("log_lines", len(lines), most_lines)
    report.most("log_lines_unhandled", sum(line["event"] == "unhandled_error" for line in lines), 0)


def _may_be_many(line: dict[str, Any]) -> bool:
    """A request that was worked on may have a line, and a share of all."""
    worked = not {"queue", "reply"}.issuperset(line.get("timings_ms", ()))
    return line["event"] == "request" and (worked or line["logged_as"] == "sampled")


def _settled(after: State, before: State) -> bool:
    return (
        after.files <= before.files + 2
        and after.connections <= before.connections
        and after.open_requests <= before.open_requests
        and after.in_flight <= before.in_flight
    )


def _quantile(values: list[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def stop_and_go(target: Target, seconds: float) -> None:
    """Freeze the process for a while."""
    os.kill(target.process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(target.process.pid, signal.SIGCONT)
