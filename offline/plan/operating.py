"""How busy replicas may be for the latency asked for: found by simulation, not by a rule of thumb."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from offline.plan.door import Shedding
from offline.plan.simulation import Fleet, Load, Ran, simulate
from offline.plan.times import Measured, p99_over_mean

SHED_SHARE = 0.001
"""Of all requests, at most, at the load that is planned for."""
_SHARES = tuple(share / 100 for share in range(5, 100, 5))
_REQUESTS = 8_000


@dataclass(frozen=True)
class Point:
    """The highest load that was found to be light enough; ``busy`` 0 where there is none.

    Attributes:
        busy: share of the workers' time.
        p99_ms: at that load, in the simulation.
        shed_share: likewise.
    """

    busy: float
    p99_ms: float
    shed_share: float


@lru_cache(maxsize=256)
def operating_point(times: Measured, p99_ms: float, fleet: Fleet, seed: int) -> Point:
    """Of a fleet with the service's shedding and ``p99_ms`` for a budget.

    More replicas, and more workers, wait less at the same load: a few of them stand for any larger number.
    """
    if times.mean_ms() * p99_over_mean(times) > p99_ms:
        return Point(0.0, times.mean_ms() * p99_over_mean(times), 0.0)
    best, low, high = Point(0.0, times.mean_ms() * p99_over_mean(times), 0.0), 0, len(_SHARES) - 1
    while low <= high:
        middle = (low + high) // 2
        ran = _run(times, p99_ms, fleet, _SHARES[middle], seed)
        if ran.quantile_ms(0.99) <= p99_ms and ran.shed_share <= SHED_SHARE:
            best, low = Point(_SHARES[middle], ran.quantile_ms(0.99), ran.shed_share), middle + 1
        else:
            high = middle - 1
    return best


def _run(times: Measured, budget_ms: float, fleet: Fleet, share: float, seed: int) -> Ran:
    per_second = share * fleet.replicas * fleet.workers * 1000 / times.mean_ms()
    return simulate(fleet, times, Load(per_second, _REQUESTS, seed), Shedding(budget_ms, most=256))
