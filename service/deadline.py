"""The time a request may take: an absolute end on a monotonic clock, passed down as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an answer is no longer worth anything.

    Attributes:
        started: when the request's first byte was seen, in seconds of ``clock``.
        end: when its budget is spent, in seconds of ``clock``.
    """

    started: float
    end: float
    clock: Clock

    @classmethod
    def after(cls, budget_ms: float, started: float, clock: Clock) -> Deadline:
        return cls(started, started + budget_ms / 1000.0, clock)

    @property
    def budget_ms(self) -> float:
        return (self.end - self.started) * 1000.0

    def remaining_ms(self) -> float:
        """Milliseconds left; negative once it has passed."""
        return (self.end - self.clock()) * 1000.0

    def allows(self, cost_ms: float) -> bool:
        """Whether something that takes ``cost_ms`` would still end in time."""
        return self.remaining_ms() >= cost_ms

    def passed(self) -> bool:
        return self.clock() >= self.end


def budget_ms(asked_ms: Iterable[float | None], default_ms: float, max_ms: float) -> float:
    """The least of what was asked for, or ``default_ms`` where nothing was; never above ``max_ms``."""
    named = [value for value in asked_ms if value is not None]
    return min(*named, max_ms) if named else min(default_ms, max_ms)
