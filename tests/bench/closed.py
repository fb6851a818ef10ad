"""Group ``closed``: the service and its rivals in closed loops, one after the other in every round."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from tests.bench.against_floor import http_floor
from tests.bench.figures import Row
from tests.bench.library import Spec
from tests.bench.servers import Server, serve
from tests.bench.session import Session

GROUP = "closed"
CONNECTIONS = (1, 8, 32, 128)
_WARM_CONNECTIONS = 8


def run(session: Session) -> None:
    """Measure every subject at every concurrency, round by round."""
    requests = session.searches()
    with ExitStack() as running:
        servers = _start(session, running)
        for server in servers.values():
            session.closed(server, requests, _WARM_CONNECTIONS, session.seconds)
        for number in session.each_round(GROUP):
            for connections in CONNECTIONS:
                for subject, server in servers.items():
                    figures, curve = session.closed(server, requests, connections, session.seconds)
                    session.rows.append(Row(GROUP, subject, f"c={connections}", number, figures, curve))
            for subject, server in servers.items():
                memory = {"resident_mb": server.resident_bytes() / 1e6}
                session.rows.append(Row(GROUP, subject, "afterwards", number, memory))


def _start(session: Session, running: ExitStack) -> dict[str, Server]:
    two, six = (Spec(session.usual_size, "hnsw", layers) for layers in (2, 6))
    ours = running.enter_context(session.ours(two))
    layout, manifest = session.snapshot(six)
    rival = ("/readyz", "--snapshot", str(layout.root), "--effort", str(manifest.index.default_effort))
    return {
        "http_floor": running.enter_context(http_floor(ours, session.searches()[0])),
        "ours": ours,
        "ours_int8": running.enter_context(session.ours(replace(two, precision="int8"))),
        "ours_six_layers": running.enter_context(session.ours(six)),
        "naive_six_layers": running.enter_context(serve("tests.bench.naive_server", *rival)),
        "sentence_transformers": running.enter_context(serve("tests.bench.sentence_server", *rival)),
    }
