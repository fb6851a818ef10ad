"""What every group of measurements works with: snapshots, how long to measure, and where rows go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from offline.progress import say
from snapshot.layout import Layout
from snapshot.manifest import Manifest
from tests.bench.client import Sockets, post
from tests.bench.figures import Row, of_load
from tests.bench.library import Library, Spec
from tests.bench.loads import closed_loop
from tests.bench.scale import BUDGET_MS, K
from tests.bench.servers import Server, serve

Measured = tuple[dict[str, float], list[float]]


@dataclass(frozen=True)
class Session:
    """One run of the bench.

    Attributes:
        sizes: numbers of documents, ascending.
        seconds: how long each subject is measured under each load of a round.
        rows: what was measured so far.
    """

    library: Library
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    rows: list[Row] = field(default_factory=list)

    @property
    def usual_size(self) -> int:
        """That of the goals, or the nearest below."""
        return max(size for size in self.sizes if size <= 100_000 or size == self.sizes[0])

    def each_round(self, group: str) -> Iterator[int]:
        """Numbers of rounds, told as they begin."""
        for number in range(self.rounds):
            say(f"{group}: round {number + 1} of {self.rounds}")
            yield number

    @contextmanager
    def ours(self, spec: Spec, *flags: str) -> Iterator[Server]:
        """The service on a snapshot; it remembers no query, unless asked to: the few that are asked here would all be."""
        registry = str(self.library.open(spec).root)
        with serve("service", "/readyz", "--registry", registry, "--query-cache-bytes", "0", *flags) as server:
            yield server

    def snapshot(self, spec: Spec) -> tuple[Layout, Manifest]:
        """The files of a snapshot and what they are."""
        registry = self.library.open(spec)
        snapshot_id = registry.current() or ""
        return registry.layout(snapshot_id), registry.read(snapshot_id)

    def searches(self, **body: Any) -> list[bytes]:
        """A request for each query; ``body`` is what else is asked for."""
        return [search(query, **body) for query in self.library.corpus.asked]

    def closed(self, server: Server, requests: list[bytes], connections: int, seconds: float) -> Measured:
        """Figures and quantiles of a closed loop, with the server's CPU time per answer 200."""
        cpu = server.cpu_seconds()
        with Sockets(server.port, connections) as wire:
            load = closed_loop(wire, connections, requests, seconds)
        figures, quantiles = of_load(load, BUDGET_MS)
        answers = figures["accepted_per_second"] * load.seconds
        return figures | {"cpu_ms": (server.cpu_seconds() - cpu) * 1e3 / max(1.0, answers)}, quantiles


Group = Callable[[Session], None]


def search(query: str, **body: Any) -> bytes:
    """A request for the ``K`` best hits of a query."""
    return post("/search", json.dumps({"query": query, "k": K, **body}).encode())


def answers(body: bytes) -> Mapping[str, Any]:
    """The JSON of an answer."""
    found: Mapping[str, Any] = json.loads(body)
    return found
