"""A token bucket: so many a second, so many at once, and a debt where something turned out to cost more."""

from __future__ import annotations

from service.deadline import Clock


class Bucket:
    """Full at first. Used by one thread."""

    __slots__ = ("_at", "_clock", "_level", "burst", "rate_per_second")

    def __init__(self, rate_per_second: float, burst: float, clock: Clock) -> None:
        """Start full.

        Args:
            rate_per_second: how fast it fills.
            burst: how much it holds, at least 1.
            clock: monotonic seconds.
        """
        self.rate_per_second = rate_per_second
        self.burst = burst
        self._clock = clock
        self._level = burst
        self._at = clock()

    def take(self) -> float:
        """Take one, if there is one; 0, or the milliseconds until there will be."""
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_second)
        self._at = now
        if self._level < 1.0:
            return (1.0 - self._level) / self.rate_per_second * 1000.0
        self._level -= 1.0
        return 0.0

    def owe(self, count: float) -> None:
        """Take so many more, which need not be there: who comes next waits for them."""
        self._level -= count
