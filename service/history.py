"""The last minutes as the service saw them itself, for the console's charts: a ring of a few hundred small samples.

Prometheus keeps the truth; this is for whoever has only the service. A sample is the difference of counters that are kept anyway,
which takes a fraction of a millisecond every few seconds and nothing from a request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from service.deadline import Clock
from service.plan import Cause
from service.watch import Vitals

INTERVAL_SECONDS = 5.0
KEPT_SECONDS = 900.0


class Source(Protocol):
    """What is sampled: totals since the start."""

    def search_seconds(self) -> tuple[Sequence[float], list[int]]:
        """Edges of the latency histogram of /search in seconds, and its cumulative counts, one more than there are edges."""

    def searches(self) -> float:
        """Searches that were answered."""

    def degraded(self) -> dict[Cause, float]:
        """Searches that gave something up, by what."""

    def refusals(self) -> dict[str, float]:
        """Requests that were refused at the door, by cause."""

    def vitals(self) -> Vitals:
        """Answers of all routes that work on queries, errors and late ones among them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened between two looks.

    Attributes:
        at: when it ended, UTC.
        seconds: how long it was.
        requests_per_second: answers of /search, refusals among them.
        answers_per_second: of any route that works on queries, without what was refused at the door.
        p50_ms, p99_ms: of the latency of /search, refusals among it; None without any.
        in_budget_share: of the requests that were let in, on any route that works on queries, those answered within their budget.
        degraded_share: of the answered searches, by what was given up; None without any.
        shed_per_second: requests that were refused at the door, on any route.
        late_per_second: requests that were answered 504, on any route that works on queries.
        failed_per_second: faults of the service itself, on the same routes.
        recall: of live queries against exact search; None where it is not measured.
    """

    at: datetime
    seconds: float
    requests_per_second: float
    answers_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    in_budget_share: float | None
    degraded_share: dict[Cause, float] | None
    shed_per_second: float
    late_per_second: float
    failed_per_second: float
    recall: float | None


class _Totals(NamedTuple):
    at: float
    buckets: list[int]
    searches: float
    degraded: dict[Cause, float]
    shed: float
    vitals: Vitals


def not_measured() -> float | None:
    """The recall where nobody measures it."""
    return None


class History:
    """Takes a sample every five seconds and keeps fifteen minutes of them. Only for the event loop's thread."""

    def __init__(
        self,
        source: Source,
        budget_ms: float,
        clock: Clock,
        recall: Callable[[], float | None] = not_measured,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The first sample begins now.

        Args:
            source: of the totals.
            budget_ms: what answers are to take at most.
            clock: monotonic seconds.
            recall: of live queries at the moment.
            now: the time of day.
        """
        self.budget_ms = budget_ms
        self._source = source
        self._clock = clock
        self._recall = recall
        self._now = now
        self._samples: deque[Sample] = deque(maxlen=int(KEPT_SECONDS / INTERVAL_SECONDS))
        self._before = self._read()

    @property
    def samples(self) -> list[Sample]:
        """Oldest first."""
        return list(self._samples)

    def tick(self) -> None:
        """Take a sample if it is time for one; called as often as anybody likes."""
        if self._clock() - self._before.at >= INTERVAL_SECONDS:
            self.sample()

    def sample(self) -> None:
        """Take a sample of what happened since the last one."""
        before, after = self._before, self._read()
        seconds = after.at - before.at
        if seconds <= 0:
            return
        self._before = after
        buckets = [late - early for late, early in zip(after.buckets, before.buckets, strict=True)]
        edges, _ = self._source.search_seconds()
        vitals = after.vitals - before.vitals
        self._samples.append(
            Sample(
                at=self._now(),
                seconds=seconds,
                requests_per_second=buckets[-1] / seconds,
                answers_per_second=vitals.answers / seconds,
                p50_ms=quantile_ms(0.5, edges, buckets),
                p99_ms=quantile_ms(0.99, edges, buckets),
                in_budget_share=_in_budget(vitals),
                degraded_share=_degraded(before, after),
                shed_per_second=(after.shed - before.shed) / seconds,
                late_per_second=vitals.late / seconds,
                failed_per_second=vitals.errors / seconds,
                recall=self._recall(),
            )
        )

    def _read(self) -> _Totals:
        source = self._source
        shed = sum(source.refusals().values())
        return _Totals(self._clock(), source.search_seconds()[1], source.searches(), source.degraded(), shed, source.vitals())


def quantile_ms(share: float, edges: Sequence[float], cumulative: Sequence[int]) -> float | None:
    """A quantile as Prometheus' histogram_quantile gives it: linear within its bucket, the last edge beyond it.

    Args:
        share: 0 to 1.
        edges: of the buckets, in seconds.
        cumulative: counts up to each edge, and in all.
    """
    if cumulative[-1] == 0:
        return None
    wanted = share * cumulative[-1]
    bucket = bisect_left(cumulative, wanted)
    if bucket >= len(edges):
        return 1000 * edges[-1]
    below, start = (cumulative[bucket - 1], edges[bucket - 1]) if bucket else (0, 0.0)
    inside = cumulative[bucket] - below
    return 1000 * (start + (edges[bucket] - start) * ((wanted - below) / inside if inside else 1.0))


def _in_budget(vitals: Vitals) -> float | None:
    return 1 - (vitals.over_budget + vitals.errors) / vitals.answers if vitals.answers else None


def _degraded(before: _Totals, after: _Totals) -> dict[Cause, float] | None:
    searches = after.searches - before.searches
    if searches <= 0:
        return None
    return {cause: (count - before.degraded[cause]) / searches for cause, count in after.degraded.items()}
