"""A well-behaved client beside the fault: a steady load of searches, health probes and scrapes, in a process of its own.

``python -m tests.load.probe PORT SEARCHES_A_SECOND`` runs until its standard input ends, then prints what it saw as JSON.
Latencies count from when a request was due, so that a server that stands still is not spared the requests of that time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

import uvloop

from tests.load.wire import Wire, get, search

_EVERY_SECONDS = {"livez": 0.1, "readyz": 0.1, "metrics": 0.25}
_GIVE_UP_SECONDS = 5.0
LOST = 0
"""In the place of a status: no answer."""


@dataclass
class Seen:
    """What came of the requests of one kind: their latencies in milliseconds, in order, and how many had which status."""

    latencies_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class Probe:
    """Sends one kind of request at a fixed pace, over connections that it keeps."""

    def __init__(self, port: int, kind: str, every_seconds: float) -> None:
        self._port = port
        self._kind = kind
        self._every_seconds = every_seconds
        self._free: list[Wire] = []
        self._number = 0
        self.seen = Seen()

    async def run(self, end: asyncio.Event) -> None:
        """Send until ``end``."""
        due, under_way = time.monotonic(), set[asyncio.Task[None]]()
        while not end.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += self._every_seconds
        await asyncio.gather(*under_way)
        for wire in self._free:
            wire.close()

    async def _ask(self, due: float) -> None:
        self._number += 1
        request = search(self._number) if self._kind == "search" else get(f"/{self._kind}")
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                status = await self._answer(request)
        except (ConnectionError, TimeoutError):
            status = LOST
        self.seen.statuses[status] += 1
        self.seen.latencies_ms.append((time.monotonic() - due) * 1000)

    async def _answer(self, request: bytes) -> int:
        """Over a connection that is kept; if the server has closed it meanwhile, over a new one, as HTTP clients do."""
        if self._free:
            wire = self._free.pop()
            try:
                status = await wire.ask(request)
            except ConnectionError:
                wire.close()
            else:
                self._free.append(wire)
                return status
        wire = await Wire.open(self._port)
        status = await wire.ask(request)
        self._free.append(wire)
        return status


async def _main(port: int, searches_per_second: float) -> dict[str, Seen]:
    end = asyncio.Event()
    paces = {"search": 1 / searches_per_second, **_EVERY_SECONDS}
    probes = {kind: Probe(port, kind, pace) for kind, pace in paces.items()}
    running = [asyncio.create_task(probe.run(end)) for probe in probes.values()]
    await asyncio.to_thread(sys.stdin.read)
    end.set()
    await asyncio.gather(*running)
    return {kind: probe.seen for kind, probe in probes.items()}


if __name__ == "__main__":
    seen = uvloop.run(_main(int(sys.argv[1]), float(sys.argv[2])))
    print(json.dumps({kind: vars(each) for kind, each in seen.items()}))
