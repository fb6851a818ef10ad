"""Group ``million``: start-up, memory and latency on a million documents, and what a second process costs."""

from __future__ import annotations

from pathlib import Path

from offline.progress import say
from snapshot.layout import Layout
from tests.bench.figures import Row, of_latencies
from tests.bench.floor import FloorParts
from tests.bench.library import Spec
from tests.bench.scale import K
from tests.bench.servers import Server
from tests.bench.session import Session

GROUP = "million"
ROWS = 1_000_000


def run(session: Session) -> None:
    """Each round starts its processes anew."""
    if session.sizes[-1] < ROWS:
        say(f"{GROUP}: left out, the largest size is {session.sizes[-1]}")
        return
    small, large = (Spec(size, "hnsw") for size in (session.sizes[0], ROWS))
    encoding = FloorParts(*session.snapshot(small))  # the same tower; its index shares no page with what is measured
    for number in session.each_round(GROUP):
        own = _own_bytes(session, small)
        session.rows.append(_measure(session, large, own, encoding, number))


def _own_bytes(session: Session, spec: Spec) -> int:
    """Resident memory of a process that serves a small index, without the index."""
    with session.ours(spec) as server:
        session.closed(server, session.searches(), 1, session.seconds)
        return server.resident_bytes() - server.mapped_bytes(*_mapped_files(session.snapshot(spec)[0]))


def _measure(session: Session, spec: Spec, own_bytes: int, encoding: FloorParts, number: int) -> Row:
    layout, _ = session.snapshot(spec)
    requests = session.searches()
    with session.ours(spec) as first:
        floor = encoding.measure(session.library.corpus.asked, K, session.seconds)
        figures, curve = session.closed(first, requests, 1, session.seconds)
        resident, touched = first.resident_bytes(), first.mapped_bytes(*_mapped_files(layout))
        figures |= {
            "ready_seconds": first.ready_seconds,
            "resident_mb": resident / 1e6,
            "touched_mb": touched / 1e6,
            "resident_growth_over_touched": (resident - own_bytes) / touched,
            "over_encoding_ms": figures["p50_ms"] - of_latencies(floor.encoding_ms)["p50_ms"],
            "second_process_share": _second(session, spec, first, layout, requests),
        }
    return Row(GROUP, "ours", "c=1", number, figures, curve)


def _second(session: Session, spec: Spec, first: Server, layout: Layout, requests: list[bytes]) -> float:
    """What another process adds to the memory of both, over the index's bytes."""
    alone = first.proportional_bytes()
    with session.ours(spec) as second:
        session.closed(second, requests, 1, session.seconds)
        together = first.proportional_bytes() + second.proportional_bytes()
    return (together - alone) / layout.index.stat().st_size


def _mapped_files(layout: Layout) -> list[Path]:
    return [layout.index, *layout.documents.glob("*.arrow")]
