"""Group ``overload``: arrivals that wait for nobody, at shares of the capacity and at three times it, each with a budget.

The budget is in the body, where it is known last; at three times the capacity it is in a header as well, as balancers send it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.bench.client import CLOSED, Sockets, get, with_header
from tests.bench.figures import Row, of_load
from tests.bench.library import Spec
from tests.bench.loads import Load, merged, open_loop, poisson, steady
from tests.bench.scale import BUDGET_MS, HEALTH, OVERLOAD
from tests.bench.servers import Server
from tests.bench.session import Measured, Session

GROUP = "overload"
SHARES = (0.5, 0.7, 0.9, OVERLOAD)
"""Of the capacity, which each round measures anew."""
IN_HEADER = f"{OVERLOAD:.0%}, in header"
_POOL = 256
_CAPACITY_CONNECTIONS = 8
_PROBES_PER_SECOND = {"livez": 10.0, "metrics": 1.0}
"""A probe looks once in some seconds, and so does Prometheus: ten scrapes a second would be a load of their own."""
_OPEN_LOOPS_LAST = 2.0
"""Times as long as closed ones: tails take many requests."""


def run(session: Session) -> None:
    """Each round: the capacity by a closed loop, then every share of it."""
    requests = session.searches(timeout_ms=BUDGET_MS)
    headed = [with_header(request, "request-timeout-ms", f"{BUDGET_MS:g}") for request in session.searches()]
    with session.ours(Spec(session.usual_size, "hnsw")) as ours:
        _overload_once(session, ours, requests)
        for number in session.each_round(GROUP):
            figures, curve = _capacity(session, ours)
            session.rows.append(Row(GROUP, "ours", "capacity", number, figures, curve))
            capacity = figures["accepted_per_second"]
            for share in SHARES:
                session.rows.append(_measure(session, ours, requests, share, capacity, number))
            session.rows.append(replace(_measure(session, ours, headed, OVERLOAD, capacity, number), load=IN_HEADER))


def _overload_once(session: Session, server: Server, requests: list[bytes]) -> None:
    """Buffers and arenas grow to their size for good before memory is looked at."""
    figures, _ = _capacity(session, server)
    _measure(session, server, requests, SHARES[-1], figures["accepted_per_second"], number=-1)


def _capacity(session: Session, server: Server) -> Measured:
    """What a closed loop gets answered that is in no hurry: under a budget, refusals would be part of the measure."""
    return session.closed(server, session.searches(), _CAPACITY_CONNECTIONS, session.seconds)


def _measure(session: Session, server: Server, requests: Sequence[bytes], share: float, capacity: float, number: int) -> Row:
    seconds = session.seconds * _OPEN_LOOPS_LAST
    probes = [steady(get(f"/{path}"), _PROBES_PER_SECOND[path], seconds, path) for path in HEALTH]
    plan = merged(poisson(requests, capacity * share, seconds, seed=number + 1), *probes)
    before, cpu = server.resident_bytes(), server.cpu_seconds()
    with Sockets(server.port, _POOL) as wire:
        load = open_loop(wire, _POOL, plan)
    figures, curve = of_load(load, BUDGET_MS)
    figures |= {
        "cpu_ms": (server.cpu_seconds() - cpu) * 1e3 / max(1.0, figures["accepted_per_second"] * load.seconds),
        "resident_growth": server.resident_bytes() / before,
        **{f"{path}_max_ms": _slowest(load, path) for path in HEALTH},
    }
    return Row(GROUP, "ours", f"{share:.0%}", number, figures, curve)


def _slowest(load: Load, label: str) -> float:
    """The longest that an answer to a probe took; one without an answer took as long as it was waited for."""
    probes = [outcome for outcome in load.outcomes if outcome.label == label]
    failed = [outcome for outcome in probes if outcome.status not in (CLOSED, 200)]
    if failed:
        raise RuntimeError(f"GET /{label} answered {failed[0].status} under load")
    return float(np.max([outcome.answer_ms for outcome in probes]))
