"""Goals of Milvus as an engine: swaps under load, a killed server, and what our layer costs over pymilvus by itself.

In a real server where it can run (a network namespace of its own), else in milvus-lite, which says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import live
from tests.bench.goals import Verdict
from tests.scale.alone import INSIDE, obstacle, run_inside

_ROWS, _K, _TIMEOUT_MS = 2000, 10, 1000
_CLIENTS = 3
_SECONDS = 300.0
_LATE_MS = 250.0
"""Beyond the budget, for clients and a service that share two cores: an answer was rendered, sent and read by then."""


def main(argv: list[str]) -> int:
    """Print the goals; 1 where one is short."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale milvus", description=__doc__)
    parser.add_argument("--lite", action="store_true", help="milvus-lite, even where the real server runs")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if importlib.util.find_spec("pymilvus") is None:
        print("milvus: not installed here: pip install 'scalingnote[milvus]' milvus-lite")
        return 0
    why = obstacle()
    if not given.inside and not given.lite:
        if why is None:
            return run_inside("tests.scale.milvus", argv)
        print(f"milvus: in milvus-lite, since the real server cannot run ({why})")
    return _measure(real=given.inside)


def _measure(real: bool) -> int:
    sys.path.append("tests")
    from milvus_servers import MilvusLite, MilvusReal

    with tempfile.TemporaryDirectory(prefix="milvus-") as name:
        folder = Path(name)
        server = (MilvusReal if real else MilvusLite)(folder / "data")
        server.start()
        try:
            verdicts = [*_served(server, folder), _overhead(server.uri)]
        finally:
            server.kill()
    for verdict in verdicts:
        print(f"{verdict.line()}  # {verdict.what}", flush=True)
    return int(not all(verdict.is_met for verdict in verdicts))


def _at_most(name: str, what: str, figure: float, bound: float) -> Verdict:
    return Verdict(name, what, figure, f"<={bound:g}", figure <= bound, figure, figure)


@dataclass
class Answers:
    """What clients saw, by time; written by several threads."""

    oracle: dict[str, list[list[str]]]
    queries: Sequence[str]
    statuses: list[int] = field(default_factory=list)
    wrong: int = 0
    worst_ms: float = 0.0
    refused_ms: float = 0.0
    snapshots: set[str] = field(default_factory=set)

    def ask(self, service: live.Live, number: int) -> None:
        """One search that must be exact, or say that it cannot."""
        place = number % len(self.queries)
        begun = time.monotonic()
        body = {"query": self.queries[place], "k": _K, "exact": True, "timeout_ms": _TIMEOUT_MS, "fields": []}
        try:
            status, answer = service.get("/search", body)
        except OSError:
            status, answer = 0, {}
        took_ms = (time.monotonic() - begun) * 1000
        self.statuses.append(status)
        self.worst_ms = max(self.worst_ms, took_ms)
        if status == 503:
            self.refused_ms = max(self.refused_ms, took_ms)
        if status == 200:
            self.snapshots.add(answer["snapshot"])
            self.wrong += [hit["id"] for hit in answer["hits"]] != self.oracle[answer["snapshot"]][place]


@contextmanager
def _asking(answers: Answers, service: live.Live) -> Iterator[None]:
    stop = threading.Event()

    def ask(first: int) -> None:
        number = first
        while not stop.is_set():
            answers.ask(service, number)
            number += _CLIENTS
            time.sleep(0.05)

    with ThreadPoolExecutor(_CLIENTS) as pool:
        asking = [pool.submit(ask, first) for first in range(_CLIENTS)]
        try:
            yield
        finally:
            stop.set()
        for each in asking:
            each.result()


def _served(server: Any, folder: Path) -> Iterator[Verdict]:
    from make_snapshot import make_oracle, make_snapshot
    from milvus_servers import make_milvus_snapshot

    from snapshot.manifest import collection_name
    from snapshot.registry import Registry

    root = folder / "registry"
    layouts = [make_milvus_snapshot(root, server.uri, _ROWS, seed=1), make_snapshot(root, _ROWS, kind="hnsw", seed=2)]
    oracles = [make_oracle(_ROWS, seed=seed) for seed in (1, 2)]
    queries = [" ".join(text.split()[:3]) for text in oracles[0].texts[:40]]
    expected = {
        layout.root.name: [[f"doc-{row}" for row in rows] for rows in oracle.rows(queries, _K)]
        for layout, oracle in zip(layouts, oracles, strict=True)
    }
    registry = Registry(root)
    milvus, faiss = (layout.root.name for layout in layouts)
    registry.activate(milvus, "scale", who="scale")
    flags = [
        "--milvus-uri",
        server.uri,
        "--threads",
        "4",
        "--swap-cpu-share",
        "1",
        "--watch-seconds",
        "0",
        "--gate-min-overlap",
        "0",
    ]
    service = live.start(folder, registry.root, *flags)
    try:
        live.until(service, service.ready, "ready", _SECONDS)
        yield from _swapped(service, registry, (faiss, milvus), Answers(expected, queries))
        yield from _killed(service, server, Answers(expected, queries), collection_name(milvus))
    finally:
        service.stop()


def _swapped(service: live.Live, registry: Any, wanted: Sequence[str], answers: Answers) -> Iterator[Verdict]:
    with _asking(answers, service):
        for each in (*wanted, *wanted):
            registry.activate(each, "scale", who="scale")
            live.until(service, lambda each=each: service.get("/info")[1]["serving"] == each, f"{each} serves", _SECONDS)  # type: ignore[misc]
            time.sleep(0.5)
    failed = sum(status != 200 for status in answers.statuses)
    what = f"of {len(answers.statuses)} searches during swaps FAISS, Milvus, FAISS, Milvus"
    yield _at_most("milvus_swap_failed", what, failed, 0)
    yield _at_most("milvus_swap_wrong", "answers that exact search does not give", answers.wrong, 0)
    if answers.snapshots != set(wanted):
        raise RuntimeError(f"answers named {answers.snapshots}, not both of {wanted}")


def _searches(uri: str, collection: str) -> bool:
    """Whether the server answers from the collection, asked without us."""
    from service.engines.milvus_wire import Wire
    from service.engines.remote import MilvusServer
    from snapshot.errors import EngineError

    wire = Wire(MilvusServer(uri))
    try:
        return wire.search(collection, np.ones((1, 16), np.float32), 1, 1, "", 5.0)[0] == [1]
    except EngineError:
        return False
    finally:
        wire.close()


def _killed(service: live.Live, server: Any, answers: Answers, collection: str) -> Iterator[Verdict]:
    with _asking(answers, service):
        time.sleep(1.0)
        server.kill()
        live.until(service, lambda: 503 in answers.statuses, "refusing", _SECONDS)
        time.sleep(2.0)
        seen, begun = len(answers.statuses), time.monotonic()
        server.start()
        up = time.monotonic()
        live.until(service, lambda: _searches(server.uri, collection), "searched there", _SECONDS)
        able = time.monotonic()
        live.until(service, lambda: 200 in answers.statuses[seen:], "answering again", _SECONDS)
        answering = time.monotonic()
        time.sleep(1.0)
    counts = {status: answers.statuses.count(status) for status in sorted(set(answers.statuses))}
    unclear = sum(count for status, count in counts.items() if status not in (200, 503))
    yield _at_most("milvus_kill_wrong", f"answers that exact search does not give; by status: {counts}", answers.wrong, 0)
    yield _at_most("milvus_kill_unclear", "answers that are neither right nor 503", unclear, 0)
    yield _at_most("milvus_kill_503_ms", "slowest 503", answers.refused_ms, _TIMEOUT_MS)
    yield _at_most("milvus_kill_slowest_ms", "slowest answer of all", answers.worst_ms, _TIMEOUT_MS + _LATE_MS)
    took = f"its start took {up - begun:.1f} s; it answers a search of its own {able - up:.1f} s after it is up"
    yield _at_most("milvus_kill_recovery_s", f"after the server is up ({took})", answering - up, 10)


def _overhead(uri: str) -> Verdict:
    """Medians of the same searches, in turn, by our engine and by ``MilvusClient.search``."""
    import pyarrow as pa
    from milvus_servers import write_vectors

    from offline.config_milvus import MilvusConfig
    from offline.milvus import connected
    from service.engines.milvus import MilvusEngine
    from service.engines.remote import MilvusServer

    random = np.random.default_rng(9)
    vectors = random.normal(size=(20_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = write_vectors(uri, vectors, pa.table({"id": [str(row) for row in range(len(vectors))]}))
    probes, ours, theirs = 16, [], []
    engine = MilvusEngine.open(index, (), 128, MilvusServer(uri))
    parameters = {"metric_type": "IP", "params": {"nprobe": probes}}
    with connected(MilvusConfig(uri=uri)) as client:
        ways = (
            (ours, lambda query: engine.search(query[None], _K, probes)),
            (theirs, lambda query: client.search(index.collection, data=[query], limit=_K, search_params=parameters)),
        )
        for number, query in enumerate(vectors[:400]):
            for seconds, search in ways if number % 2 else reversed(ways):  # the second finds the lists in the processor's cache
                begun = time.perf_counter()
                search(query)
                seconds.append(time.perf_counter() - begun)
    engine.close()
    left, right = (float(np.median(each[50:])) * 1000 for each in (ours, theirs))
    return _at_most("milvus_overhead", f"p50 {left:.2f} ms by our layer over {right:.2f} ms by pymilvus", left / right, 1.2)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
