"""Time that only moves when a test says so."""

from __future__ import annotations


class ManualClock:
    """Monotonic seconds."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance_ms(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000
