"""Group ``zipf``: few queries asked often and many seldom, with and without the cache of query vectors."""

from __future__ import annotations

import numpy as np

from tests.bench.figures import Row
from tests.bench.library import Spec
from tests.bench.session import Session

GROUP = "zipf"
EXPONENT = 1.0
"""The query of rank r is asked in proportion to r to the minus this."""
_CACHE_BYTES = 1 << 20
"""Room for a few hundred vectors: fewer than there are queries, as in life."""
_REQUESTS = 20_000
CONNECTIONS = (1, 8)


def run(session: Session) -> None:
    """The same requests to both, in turns."""
    requests = in_zipf_order(session.searches(), _REQUESTS)
    spec = Spec(session.usual_size, "hnsw")
    with session.ours(spec) as without, session.ours(spec, "--query-cache-bytes", str(_CACHE_BYTES)) as cached:
        for number in session.each_round(GROUP):
            for connections in CONNECTIONS:
                for subject, server in (("without cache", without), ("with cache", cached)):
                    figures, curve = session.closed(server, requests, connections, session.seconds)
                    session.rows.append(Row(GROUP, subject, f"c={connections}", number, figures, curve))


def in_zipf_order(requests: list[bytes], count: int) -> list[bytes]:
    """``count`` of the requests, drawn with replacement, the first of them most often."""
    weights = np.arange(1, len(requests) + 1) ** -EXPONENT
    drawn = np.random.default_rng(0).choice(len(requests), size=count, p=weights / weights.sum())
    return [requests[place] for place in drawn]
