"""``make bench``: the floors and ``/search``, interleaved in one run, as a table of medians, spreads and ratios.

Each round measures every subject once, so that a noisy minute falls on all of them. A figure is the median of
the rounds; its spread is the least and the greatest round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from snapshot.errors import SnapshotError
from snapshot.registry import Registry
from tests.bench.client import closed_loop, post
from tests.bench.floor import Parts
from tests.bench.servers import Server, serve

CONCURRENCY = (1, 8, 32)
Samples = dict[str, list[float]]


def main() -> int:
    arguments = _arguments()
    registry = Registry(arguments.registry)
    try:
        snapshot_id = arguments.snapshot or registry.current() or ""
        manifest, layout = registry.read(snapshot_id), registry.layout(snapshot_id)
    except SnapshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    queries = json.loads(layout.golden_queries.read_text(encoding="utf-8"))
    bodies = [json.dumps({"query": query, "k": arguments.k}).encode() for query in queries]
    samples: Samples = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, serve("service", "/readyz", "--registry", _alone(folder, layout.root)) as ours:
        answer = Path(folder) / "answer.json"
        answer.write_bytes(_search(ours.port, bodies[0]))
        with serve("tests.bench.http_floor", "/readyz", "--answer", str(answer)) as http_floor:
            parts = Parts(layout, manifest)
            for number in range(arguments.rounds):
                print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
                _measure_floor(samples, parts, queries, arguments.k, arguments.seconds)
                _measure_server(samples, "HTTP floor", http_floor, bodies, arguments.seconds)
                _measure_server(samples, "/search", ours, bodies, arguments.seconds)
        samples["start to ready, s"].append(ours.ready_seconds)
    what = f"{manifest.id}: {manifest.documents.count} documents, {manifest.index.kind}, {manifest.query_tower.layers} layers "
    _print(samples, f"{what}{manifest.query_tower.precision}, k={arguments.k}", arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps({"snapshot": manifest.id, "samples": samples}, indent=2))
    return 0


def _alone(folder: str, snapshot: Path) -> str:
    """A registry of this snapshot only, so that nobody's activation disturbs the run."""
    registry = Registry(Path(folder) / "registry")
    registry.activate(registry.publish(snapshot).id, "bench")
    return str(registry.root)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--registry", type=Path, default=Path("registry"), help="folder of snapshots")
    parser.add_argument("--snapshot", help="id; what CURRENT names unless given")
    parser.add_argument("--k", type=int, default=10, help="hits a search")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each subject is measured in a round")
    parser.add_argument("--json", type=Path, help="also write every round's figures here")
    return parser.parse_args()


def _search(port: int, body: bytes) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/search", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
    return answer


def _measure_floor(samples: Samples, parts: Parts, queries: Sequence[str], k: int, seconds: float) -> None:
    floor = parts.measure(queries, k, seconds)
    for stage in ("tokenize", "encode", "search", "total"):
        name = "in-process floor" if stage == "total" else f"  floor: {stage}"
        _add_latencies(samples, name, getattr(floor, f"{stage}_ms"))
    samples["in-process floor, CPU ms"].append(floor.cpu_seconds * 1e3 / len(floor.total_ms))


def _measure_server(samples: Samples, name: str, server: Server, bodies: Sequence[bytes], seconds: float) -> None:
    requests = [post("/search", body) for body in bodies]
    for connections in CONCURRENCY:
        cpu = server.cpu_seconds()
        load = uvloop.run(closed_loop(server.port, requests, connections, seconds))
        subject = f"{name} c={connections}"
        _add_latencies(samples, subject, load.latencies_ms)
        samples[f"{subject}, requests/s"].append(load.per_second)
        samples[f"{subject}, CPU ms"].append((server.cpu_seconds() - cpu) * 1e3 / len(load.latencies_ms))
        samples[f"{subject}, failed"].append(load.failed)
    samples[f"{name}, resident MB"].append(server.resident_bytes() / 1e6)


def _add_latencies(samples: Samples, name: str, latencies_ms: Sequence[float]) -> None:
    for quantile in (50, 99):
        samples[f"{name}, p{quantile} ms"].append(float(np.percentile(latencies_ms, quantile)))


def _print(samples: Samples, title: str, rounds: int) -> None:
    console = Console(width=110)
    table = Table("what", "median", "least", "greatest", title=title)
    for name, values in samples.items():
        table.add_row(name, *(f"{figure:.3f}" for figure in (statistics.median(values), min(values), max(values))))
    console.print(table)
    ratios = Table("ratio", "median", "least", "greatest", title=f"ratios, each within one of {rounds} rounds")
    for name, above, below in _RATIOS:
        values = [a / b for a, b in zip(samples[above], samples[below], strict=True)]
        ratios.add_row(name, *(f"{figure:.2f}" for figure in (statistics.median(values), min(values), max(values))))
    console.print(ratios)


_RATIOS = (
    ("/search p50 at concurrency 1 / in-process floor p50", "/search c=1, p50 ms", "in-process floor, p50 ms"),
    ("/search p50 at concurrency 1 / HTTP floor p50", "/search c=1, p50 ms", "HTTP floor c=1, p50 ms"),
    ("/search CPU per request at concurrency 32 / floor's", "/search c=32, CPU ms", "in-process floor, CPU ms"),
    ("/search throughput at concurrency 32 / HTTP floor's", "/search c=32, requests/s", "HTTP floor c=32, requests/s"),
    ("/search throughput at concurrency 32 / at 1", "/search c=32, requests/s", "/search c=1, requests/s"),
)


if __name__ == "__main__":
    sys.exit(main())
