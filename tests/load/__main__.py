"""``python -m tests.load CASE [--registry DIR]``: the service under hostile and unlucky clients, beside a steady load.

Each case starts a service of its own on loopback, over a toy snapshot unless a registry is named, and prints lines
``LOAD <case> <what> <figure> <bound> ok|short``. The exit code is 1 if a line is short.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tests.load import clients, overload
from tests.load.report import Line, Report
from tests.load.target import Target, check_calm, check_leaks, check_log, check_served, probed, running

_LOW_PRIORITY = 10


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        run: puts the service under it; the last argument scales how much.
        flags: of the service.
        most_lines: that the service may log meanwhile.
        most_mb: that it may have grown afterwards.
        refused: whether the steady load, too, may be refused.
        searches_per_second: of the steady load.
        still_ms: how long the fault makes the process stand still.
        yields: whether its clients leave the processor to the service and the steady load, as they would on machines of
            their own; not where their own latencies are figures.
    """

    run: Callable[[Target, Report, float], Awaitable[None]]
    flags: tuple[str, ...] = ()
    most_lines: int = 25
    most_mb: float = 48.0
    refused: bool = False
    searches_per_second: float = 50.0
    still_ms: float = 0.0
    yields: bool = True


def _slow(run: Callable[[Target, Report, float], Awaitable[None]], *flags: str, still_ms: float = 0.0) -> Case:
    return Case(run, (*_SLOW, *flags), refused=True, searches_per_second=10.0, still_ms=still_ms, yields=False)


_SLOW = ("--slow-ms", f"{overload.SLOW_MS:g}", "--threads", f"{overload.THREADS}", "--batching", "off")
CASES = {
    "slow-clients": Case(clients.slow_clients, clients.BOUNDED),
    "byte-by-byte": Case(clients.byte_by_byte),
    "huge-bodies": Case(clients.huge_bodies),
    "keep-alive": Case(clients.keep_alive, most_mb=200.0),
    "crowd": Case(clients.crowd, ("--max-connections", "200")),
    "garbage": Case(clients.garbage, clients.BOUNDED),
    "disconnect": _slow(overload.disconnect),
    "overload": _slow(overload.overload),
    "blocked-stage": _slow(overload.blocked_stage, "--block-ms", f"{overload.BLOCK_MS:g}"),
    "stop-cont": _slow(overload.stop_cont, still_ms=overload.STOP_SECONDS * 1000),
}


def run_case(name: str, registry: Path, folder: Path, scale: float = 1.0, calm_seconds: float = 3.0) -> list[Line]:
    """Run one case; its lines. Before it, the steady load alone for ``calm_seconds``."""
    case, report = CASES[name], Report(name)
    with running(folder, registry, *case.flags) as target:
        if calm_seconds:
            with probed(target, case.searches_per_second) as calm:
                time.sleep(calm_seconds)
            check_calm(report, calm)
        before = target.state()
        with probed(target, case.searches_per_second) as seen, ThreadPoolExecutor(1) as aside:
            aside.submit(_fault, case, target, report, scale).result()
        check_served(report, seen, refused=case.refused, still_ms=case.still_ms)
        check_leaks(report, target, before, case.most_mb)
    check_log(report, target, case.most_lines)
    return report.lines


def _fault(case: Case, target: Target, report: Report, scale: float) -> None:
    """On a thread of its own, whose priority nothing inherits that is started later."""
    if case.yields:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
    uvloop.run(case.run(target, report, scale))  # type: ignore[arg-type]  # they are coroutines


def main() -> int:
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("case", choices=["all", *CASES])
    parser.add_argument("--registry", type=Path, help="folder of snapshots; a toy one is made unless given")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of clients")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        registry = arguments.registry or _toy(Path(folder) / "registry")
        names = list(CASES) if arguments.case == "all" else [arguments.case]
        lines = [line for name in names for line in run_case(name, registry, Path(folder), arguments.scale)]
    short = [line for line in lines if not line.ok]
    print(f"{len(lines)} figures, {len(short)} short")
    for line in short:
        print(line)
    return 1 if short else 0


def _toy(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: the modules that tests share import each other by name
    from make_snapshot import make_snapshot

    from snapshot.registry import Registry

    layout = make_snapshot(folder, kind="hnsw")
    Registry(folder).activate(layout.root.name, "for tests/load", who="tests")
    return folder


if __name__ == "__main__":
    sys.exit(main())
