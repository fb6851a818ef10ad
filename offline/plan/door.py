"""The service's door in miniature: a limit that follows the queue, a wait that is predicted, a deadline.

``service.admission`` and ``service.limits`` are the original, which the offline side does not import; a test runs both against
the same traffic. Here are searches only, and times are milliseconds of the simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Protocol

_WEIGHT = 0.1
_ENOUGH = 20
_STANDING_SHARE, _BURST_SHARE = 0.55, 0.85
_BURST_BUDGETS = 2.0
_WINDOW = 50
_BUDGET_SHARE = 0.125
_LEAST_GRADIENT = 0.5


@dataclass(frozen=True, slots=True)
class Shedding:
    """What a service is set to.

    Attributes:
        budget_ms: that a request has, from its arrival.
        most: requests in flight at most.
        adaptive: whether the limit follows the queue; else it is ``most``.
    """

    budget_ms: float
    most: int = 256
    adaptive: bool = True


class Door(Protocol):
    """Of one replica."""

    def admits(self, now_ms: float, in_flight: int, /) -> float | None:
        """How long a request that comes now, to ``in_flight`` others, may wait; None where it is refused."""

    def begins(self, waited_ms: float, /) -> bool:
        """Whether a request that has waited so long is still worked on."""

    def ended(self, left: Left, /) -> None:
        """Learn from a request that has left."""


@dataclass(frozen=True, slots=True)
class Left:
    """A request that is over.

    Attributes:
        service_ms: of work.
        queue_ms: before it.
        patience_ms: how long it might have waited.
        in_flight: requests at its end, itself included.
        done: False where it was given up unanswered.
    """

    service_ms: float
    queue_ms: float
    patience_ms: float
    in_flight: int
    done: bool


class Open:
    """Lets everybody in and gives nobody up: the queue of the textbooks."""

    def admits(self, _now_ms: float, _in_flight: int, /) -> float | None:
        return math.inf

    def begins(self, _waited_ms: float, /) -> bool:
        return True

    def ended(self, _left: Left, /) -> None:
        """Nothing to learn."""


class Guarded:
    """As the service does it."""

    def __init__(self, shedding: Shedding, workers: int) -> None:
        self._shedding = shedding
        self._workers = workers
        self._item_ms, self._samples = 0.0, 0
        self._queued_since: float | None = None
        self._limit = float(shedding.most)
        self._least = min(workers + 1, shedding.most)
        self._mean_ms = 0.0
        self._window: list[Left] = []

    @property
    def limit(self) -> int:
        return int(self._limit)

    def admits(self, now_ms: float, in_flight: int, /) -> float | None:
        patience_ms = self._patience_ms(now_ms)
        if in_flight >= self.limit or self._predicted_ms(in_flight) > patience_ms:
            return None
        if in_flight + 1 == self._workers:
            self._queued_since = now_ms
        return patience_ms

    def begins(self, waited_ms: float, /) -> bool:
        return self._shedding.budget_ms - waited_ms >= self._known_ms

    def ended(self, left: Left, /) -> None:
        if self._shedding.adaptive:
            self._window.append(left)
            if len(self._window) >= _WINDOW:
                self._adjust(self._window)
                self._window = []
        if left.in_flight - 1 < self._workers:
            self._queued_since = None
        if left.done:
            self._samples += 1
            self._item_ms += max(_WEIGHT, 1 / self._samples) * (left.service_ms - self._item_ms)

    @property
    def _known_ms(self) -> float:
        return self._item_ms if self._samples >= _ENOUGH else 0.0

    def _patience_ms(self, now_ms: float) -> float:
        budget_ms = self._shedding.budget_ms
        queued_ms = 0.0 if self._queued_since is None else now_ms - self._queued_since
        share = _BURST_SHARE if queued_ms <= _BURST_BUDGETS * budget_ms else _STANDING_SHARE
        return max(0.0, share * budget_ms - self._known_ms)

    def _predicted_ms(self, in_flight: int) -> float:
        return max(0, in_flight - self._workers + 1) * self._known_ms / self._workers

    def _adjust(self, window: list[Left]) -> None:
        """Gradient2 of Netflix's concurrency-limits, on the least wait of a window, as the service's limit does it."""
        done = [left.service_ms for left in window if left.done]
        if done:
            self._mean_ms = sum(done) / len(done)
        allowed_ms = max(self._mean_ms, _BUDGET_SHARE * median(left.patience_ms for left in window))
        round_trip_ms = self._mean_ms + min(left.queue_ms for left in window)
        gradient = min(1.0, (self._mean_ms + allowed_ms) / round_trip_ms) if round_trip_ms > 0 else 1.0
        if gradient < 1.0 or max(left.in_flight for left in window) >= self.limit:
            wanted = self._limit * max(_LEAST_GRADIENT, gradient) + math.sqrt(self._limit)
            self._limit = max(self._least, min(self._shedding.most, wanted))
