"""Group ``sizes``: every size and kind of index, side by side: start-up, memory, latency, throughput."""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench.figures import Row
from tests.bench.library import Kind, Spec
from tests.bench.session import Session

GROUP = "sizes"
KINDS: tuple[Kind, ...] = ("hnsw", "ivfpq")
CONNECTIONS = (1, 8)


def run(session: Session) -> None:
    """All of them serve at once; each round asks one after the other."""
    specs = [Spec(size, kind) for size in session.sizes for kind in KINDS]
    requests = session.searches()
    with ExitStack() as running:
        servers = {spec: running.enter_context(session.ours(spec)) for spec in specs}
        for number in session.each_round(GROUP):
            for connections in CONNECTIONS:
                for spec, server in servers.items():
                    figures, curve = session.closed(server, requests, connections, session.seconds)
                    session.rows.append(Row(GROUP, subject(spec), f"c={connections}", number, figures, curve))
        for spec, server in servers.items():
            layout, manifest = session.snapshot(spec)
            effort = next(row for row in manifest.index.efforts if row.effort == manifest.index.default_effort)
            once = {
                "ready_seconds": server.ready_seconds,
                "resident_mb": server.resident_bytes() / 1e6,
                "index_mb": layout.index.stat().st_size / 1e6,
                "effort": float(effort.effort),
                "recall_at_10": effort.recall_at_10,
            }
            session.rows.append(Row(GROUP, subject(spec), "once", 0, once))


def subject(spec: Spec) -> str:
    """What a row of this group is about."""
    return f"{spec.kind} {spec.rows}"
