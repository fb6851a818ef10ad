"""Group ``budget``: a budget that full effort does not fit into, and whether what is said about the answers is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offline.ranking import Rows as DocumentRows
from tests.bench.client import Sockets
from tests.bench.figures import OK, Row, of_load
from tests.bench.library import Spec
from tests.bench.loads import Outcome, closed_loop
from tests.bench.scale import TIGHT_MS
from tests.bench.servers import Server
from tests.bench.session import Session, answers

GROUP = "budget"
_AMPLE_MS = 1000.0
_CAUSE = "deadline_effort"


def run(session: Session) -> None:
    """One client, with the tight budget and with one that is ample, on the largest index."""
    spec = Spec(session.sizes[-1], "hnsw", slow=True)
    _, exact = session.library.exact(spec.rows, spec.layers)
    with session.ours(spec) as ours:
        for number in session.each_round(GROUP):
            for budget_ms in (TIGHT_MS, _AMPLE_MS):
                session.rows.append(_measure(session, ours, exact, budget_ms, number))


def _measure(session: Session, server: Server, exact: DocumentRows, budget_ms: float, number: int) -> Row:
    requests = session.searches(timeout_ms=budget_ms)
    first = number * len(requests) // session.rounds  # each round asks others, for recall's sake
    with Sockets(server.port, 1) as wire:
        load = closed_loop(wire, 1, requests[first:] + requests[:first], session.seconds * 2)
    figures, curve = of_load(load, budget_ms)
    best = dict(zip(requests, exact, strict=True))
    accepted = [outcome for outcome in load.outcomes if outcome.status == OK]
    return Row(GROUP, "ours", f"{budget_ms:g} ms", number, figures | truth(accepted, best), curve)


def truth(accepted: Sequence[Outcome], best: Mapping[bytes, DocumentRows]) -> dict[str, float]:
    """What the answers say of themselves beside what they are; ``best`` are the rows int64[k] of exact search by request.

    The gap is between means over the answers that say that something was given up.
    """
    found = [(answers(outcome.body), best[outcome.request]) for outcome in accepted]
    marked = [(answer, rows) for answer, rows in found if answer["degraded"] and _CAUSE in answer["degraded"]["causes"]]
    figures = {"marked_share": len(marked) / max(1, len(found))}
    if marked:
        expected = float(np.mean([answer["degraded"]["expected_recall"] for answer, _ in marked]))
        realised = float(np.mean([_recall(answer, rows) for answer, rows in marked]))
        figures |= {"expected_recall": expected, "realised_recall": realised, "recall_gap": abs(realised - expected)}
    return figures


def _recall(answer: Mapping[str, object], rows: DocumentRows) -> float:
    hits = answer["hits"]
    assert isinstance(hits, list)
    ids = {hit["id"] for hit in hits}
    return sum(f"doc-{row}" in ids for row in rows) / len(rows)
