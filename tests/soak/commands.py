"""What an operator waits for: a snapshot that is activated by the command, and one that is rolled back; no load beside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from offline.progress import say
from snapshot.registry import Registry
from tests.bench.client import Sockets
from tests.bench.figures import Row
from tests.bench.loads import closed_loop
from tests.bench.session import search
from tests.live import ENVIRONMENT, ROOT, Live, start, until
from tests.soak.memory import Peak, held
from tests.soak.swaps import wait_until_serving
from tests.soak.trio import Trio

COMMANDS = "by command"
_LOOK_SECONDS = 0.02
_WARM_CONNECTIONS = 2


def measure(group: str, trio: Trio, rounds: int, warm_seconds: float, folder: Path) -> list[Row]:
    """Each round a service anew, so that it never had more than two generations open."""
    rows = []
    for number in range(rounds):
        say(f"{group}: by command, round {number + 1} of {rounds}")
        with trio.registry() as registry:
            live = start(folder, registry.root)
            try:
                until(live, live.ready, "ready")
                rows.append(Row(group, "service", COMMANDS, number, _measure(trio, registry, live, warm_seconds)))
            finally:
                live.stop()
    return rows


def _measure(trio: Trio, registry: Registry, live: Live, warm_seconds: float) -> dict[str, float]:
    first, second = trio.ids[:2]
    _warm(trio, live, warm_seconds)
    before = held(live.process.pid)
    with Peak(live.process.pid) as peak:
        activated = _until_serving(live, registry, second, "activate", second)
    _warm(trio, live, warm_seconds)
    return {
        "activate_seconds": activated,
        "extra_memory_share": (peak.resident - before.resident) / trio.index_bytes,
        "extra_anonymous_share": (peak.anonymous - before.anonymous) / trio.index_bytes,
        "rollback_seconds": _until_serving(live, registry, first, "rollback"),
    }


def _warm(trio: Trio, live: Live, seconds: float) -> None:
    """Searches, so that the pages are mapped that searches need."""
    with Sockets(live.port, _WARM_CONNECTIONS) as wire:
        closed_loop(wire, _WARM_CONNECTIONS, [search(query) for query in trio.queries], seconds)


def _until_serving(live: Live, registry: Registry, snapshot_id: str, *arguments: str) -> float:
    """Seconds from the start of ``python -m snapshot`` until what it wants serves."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "snapshot", *arguments, "--registry", str(registry.root), "--why", "soak"]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return wait_until_serving(live, snapshot_id, _LOOK_SECONDS) - begun
