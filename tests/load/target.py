"""A service under test: a process of its own, what can be seen of it from outside, and whether it leaked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.load.probe import Seen
from tests.load.report import Report

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_SETTLE_SECONDS = 15.0
_WARM_REQUESTS = 40
_SAMPLE = re.compile(r"^scalingnote_(\w+?)(?:\{(.*)\})? (\S+)$")
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


@dataclass(frozen=True)
class Target:
    """A running service.

    Attributes:
        log: where it writes its lines.
    """

    port: int
    process: psutil.Process
    log: Path

    def metrics(self) -> dict[str, float]:
        """Every series of ours by ``name`` or ``name{labels}``, and summed over labels by ``name``."""
        found: dict[str, float] = {}
        for line in self.read("/metrics").decode().splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match[1], match[2], float(match[3])
                found[name] = found.get(name, 0.0) + value
                if labels:
                    found[f"{name}{{{labels}}}"] = value
        return found

    def read(self, path: str) -> bytes:
        """The body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            body: bytes = response.read()
        return body

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

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def running(folder: Path, registry: Path, *flags: str) -> Iterator[Target]:
    """The service over ``registry`` with ``flags``, warm, until the block ends; it must then end well and in time.

    Raises:
        RuntimeError: it did not start, or did not end with 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--registry", str(registry), "--port", str(port), "--log-format", "json", "--drain-min-seconds", "0"]
    log = folder / f"service-{port}.log"
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "tests.load.slow_service", *common, *flags], cwd=_ROOT, stderr=said)
        target = Target(port, psutil.Process(process.pid), log)
        try:
            _await_ready(process, target)
            for _ in range(_WARM_REQUESTS):
                target.metrics()
            yield target
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            code = process.wait(timeout=60)
    if code != 0:
        raise RuntimeError(f"the service ended with {code}: {log.read_text()[-2000:]}")


def _await_ready(process: subprocess.Popen[bytes], target: Target) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended: {target.log.read_text()[-2000:]}")
        try:
            target.read("/readyz")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the service was not ready within {_START_SECONDS:g} s: {target.log.read_text()[-2000:]}")


@contextmanager
def probed(target: Target, searches_per_second: float) -> Iterator[dict[str, Seen]]:
    """A steady load beside the block; what it saw is there after the block."""
    seen: dict[str, Seen] = {}
    command = [sys.executable, "-m", "tests.load.probe", str(target.port), str(searches_per_second)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
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
    lines = target.log_lines()
    report.most("log_lines", len(lines), most_lines)
    report.most("log_lines_unhandled", sum(line["event"] == "unhandled_error" for line in lines), 0)


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
