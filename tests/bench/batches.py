"""Group ``batches``: lists of queries at half and at three times what the service does of them, and single searches beside.

A list has a budget of a second, a single search that of the other groups. Single searches come thirty a second:
what becomes of them beside lists is in question, not how many there can be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.bench.client import Sockets, post
from tests.bench.figures import Row, of_load
from tests.bench.library import Spec
from tests.bench.loads import closed_loop, merged, open_loop, poisson
from tests.bench.scale import BUDGET_MS, OVERLOAD, K
from tests.bench.servers import Server
from tests.bench.session import Session

GROUP = "batches"
SHARES = (0.0, 0.5, OVERLOAD)
"""Of what a closed loop gets done of these lists alone, which each round measures anew."""
_QUERIES = 100
_BUDGET_MS = 1000.0
_CONNECTIONS = 64
_SINGLE_PER_SECOND = 30.0


def run(session: Session) -> None:
    """Each round: what it does of lists, then single searches without any, with some, and with three times too many."""
    with session.ours(Spec(session.usual_size, "hnsw")) as ours:
        for number in session.each_round(GROUP):
            for name, requests in _lists(session).items():
                _measure(session, ours, name, requests, number)


def _lists(session: Session) -> Mapping[str, list[bytes]]:
    """Requests of ``_QUERIES`` queries each, by what they ask for."""
    texts = session.library.corpus.asked
    asked = [texts[first : first + _QUERIES] for first in range(0, len(texts), _QUERIES)]
    searches = [[{"query": query, "k": K} for query in queries] for queries in asked]
    return {
        f"/search/batch of {_QUERIES}": [post("/search/batch", json.dumps(each).encode()) for each in searches],
        f"/embed of {_QUERIES}": [post("/embed", json.dumps({"queries": each}).encode()) for each in asked],
    }


def _measure(session: Session, server: Server, name: str, requests: list[bytes], number: int) -> None:
    capacity = _capacity(session, server, requests)
    session.rows.append(Row(GROUP, name, "capacity", number, {"accepted_per_second": capacity}))
    for share in SHARES:
        seconds = 2 * session.seconds
        single = poisson(session.searches(timeout_ms=BUDGET_MS), _SINGLE_PER_SECOND, seconds, seed=number + 1)
        lists = poisson(requests, capacity * share, seconds, seed=number + 2, label=GROUP) if share else []
        with Sockets(server.port, _CONNECTIONS) as wire:
            load = open_loop(wire, _CONNECTIONS, merged(single, lists))
        session.rows.append(Row(GROUP, "single searches", f"beside {name}, {share:.0%}", number, *of_load(load, BUDGET_MS)))
        if lists:
            session.rows.append(Row(GROUP, name, f"{share:.0%}", number, *of_load(load, _BUDGET_MS, GROUP)))


def _capacity(session: Session, server: Server, requests: list[bytes]) -> float:
    """Lists answered a second, two at a time; at least one, or there would be no arrivals to plan."""
    with Sockets(server.port, 2) as wire:
        load = closed_loop(wire, 2, requests, session.seconds)
    return max(1.0, of_load(load, _BUDGET_MS)[0]["accepted_per_second"])
