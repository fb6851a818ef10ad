"""Group ``floor``: the service beside the in-process floor and the HTTP floor, in short turns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.client import Sockets
from tests.bench.figures import Row, of_latencies, quantiles
from tests.bench.floor import STAGES, Floor, FloorParts
from tests.bench.library import Spec
from tests.bench.scale import SATURATED, K
from tests.bench.servers import Server, serve
from tests.bench.session import Session

GROUP = "floor"
TURNS = 6
"""In each round. The shorter the turns, the less of another process's work falls on one subject alone."""
_ANSWER_SECONDS = 10.0


def run(session: Session) -> None:
    """Floor, HTTP floor and service in turns; each turn is a row."""
    spec = Spec(session.usual_size, "hnsw")
    parts = FloorParts(*session.snapshot(spec))
    queries, requests = session.library.corpus.asked, session.searches()
    with session.ours(spec) as ours, http_floor(ours, requests[0]) as empty:
        for number in session.each_round(GROUP):
            for turn in range(number * TURNS, (number + 1) * TURNS):
                seconds = session.seconds / TURNS
                session.rows.append(floor_row(GROUP, turn, parts.measure(queries, K, seconds)))
                for subject, server in (("http_floor", empty), ("ours", ours)):
                    for connections in (1, SATURATED):
                        figures, curve = session.closed(server, requests, connections, seconds)
                        session.rows.append(Row(GROUP, subject, f"c={connections}", turn, figures, curve))


def floor_row(group: str, number: int, floor: Floor) -> Row:
    """The in-process floor as a row: its latency by stage and as a whole, and its CPU time per query."""
    total = floor.total_ms
    stages = {f"{stage}_p50_ms": of_latencies(floor.stage_ms[:, place])["p50_ms"] for place, stage in enumerate(STAGES)}
    figures = {
        **of_latencies(total),
        **stages,
        "encoding_p50_ms": of_latencies(floor.encoding_ms)["p50_ms"],
        "cpu_ms": floor.cpu_seconds * 1e3 / len(total),
        "accepted_per_second": len(total) / (total.sum() / 1e3),
    }
    return Row(group, "floor", "c=1", number, figures, quantiles(total))


@contextmanager
def http_floor(ours: Server, request: bytes) -> Iterator[Server]:
    """An empty FastAPI app that answers what the service answered to ``request``."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        answer.write_bytes(_body(ours, request))
        with serve("tests.bench.http_floor", "/readyz", "--answer", str(answer)) as server:
            yield server


def _body(server: Server, request: bytes) -> bytes:
    with Sockets(server.port, 1) as wire:
        wire.send(0, request)
        (answer,) = wire.wait(_ANSWER_SECONDS)
    return answer.body
