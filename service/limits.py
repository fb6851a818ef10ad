"""How many requests may be in flight: the number, apart from the counting in ``service.admission``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Literal, Protocol

LimitKind = Literal["adaptive", "fixed"]

_WINDOW = 50
"""Requests that are looked at together. Bursts drain within so many; a queue that never drained is a standing one."""
_BUDGET_SHARE = 0.125
"""A standing queue of this part of the budgets is no reason to take fewer: it makes nobody late."""
_LEAST_GRADIENT = 0.5


class Outcome(StrEnum):
    """What became of an admitted request."""

    DONE = "done"
    FAILED = "failed"  # ended early: its time says nothing about what a request costs
    DROPPED = "dropped"  # too late, or its caller gone: it waited, but was not worked on to the end


class Limit(Protocol):
    """The number. Called on one thread."""

    @property
    def value(self) -> int:
        """Requests that may be in flight now; at least 1."""

    def used_up(self) -> None:
        """Somebody was refused for want of room in a part of it: a lane alone that keeps to its share never fills the whole."""

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        """Learn from a request that has ended.

        Args:
            service_ms: its work; by item, for many.
            queue_ms: its wait.
            budget_ms: how long it might have waited when it came in.
            in_flight: requests at its end, itself included.
            outcome: what became of it.
        """


class FixedLimit:
    """A number from the settings."""

    def __init__(self, value: int) -> None:
        self.value = value

    def used_up(self) -> None:
        """It stays what it is."""

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        """A fixed number learns nothing."""


@dataclass(slots=True)
class _Window:
    """What is known of the requests that are looked at together."""

    seen: int = 0
    done: int = 0
    service_ms: float = 0.0
    least_queue_ms: float = math.inf
    most_in_flight: int = 0
    used_up: bool = False
    budgets_ms: list[float] = field(default_factory=list)

    def add(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, done: bool) -> None:
        self.seen += 1
        self.budgets_ms.append(budget_ms)
        self.least_queue_ms = min(self.least_queue_ms, queue_ms)
        self.most_in_flight = max(self.most_in_flight, in_flight)
        if done:
            self.done += 1
            self.service_ms += service_ms


class GradientLimit:
    """Follows the queue: smaller while requests keep waiting long against what they cost, larger while it is used up.

    After Gradient2 of Netflix's concurrency-limits (limit x gradient + square root of limit, the gradient between 0.5 and 1),
    with two changes that knowing our own queue allows. The time without load is the measured service time, not a long
    average of round trips, which takes a lasting queue for normal and lets the limit drift up. And the wait of a window is
    its least, as in CoDel (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012): a burst that drains is no
    overload. A queue that takes an eighth of the budgets makes nobody late, and is left alone: callers with time get answers
    where callers in a hurry get a short queue.
    """

    def __init__(self, workers: int, most: int) -> None:
        """Start with ``most``: a standing queue corrects that within some windows, and the door refuses by time meanwhile.

        Args:
            workers: threads that work at a time; the limit stays above, so that none of them waits for work.
            most: what the limit never exceeds.
        """
        self._least, self._most = min(workers + 1, most), most
        self._limit = float(most)
        self.value = int(self._limit)
        self._service_ms = 0.0
        self._window = _Window()

    def used_up(self) -> None:
        self._window.used_up = True

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        if outcome is Outcome.FAILED:
            return
        self._window.add(service_ms, queue_ms, budget_ms, in_flight, outcome is Outcome.DONE)
        if self._window.seen >= _WINDOW:
            self._adjust(self._window)
            self._window = _Window()

    def _adjust(self, window: _Window) -> None:
        if window.done:
            self._service_ms = window.service_ms / window.done
        allowed_ms = max(self._service_ms, _BUDGET_SHARE * median(window.budgets_ms))
        round_trip_ms = self._service_ms + window.least_queue_ms
        gradient = min(1.0, (self._service_ms + allowed_ms) / round_trip_ms) if round_trip_ms > 0 else 1.0
        if gradient < 1.0 or window.used_up or window.most_in_flight >= self.value:
            wanted = self._limit * max(_LEAST_GRADIENT, gradient) + math.sqrt(self._limit)
            self._limit = max(self._least, min(self._most, wanted))
            self.value = int(self._limit)


def make_limit(kind: LimitKind, workers: int, most: int) -> Limit:
    """The limit that the settings ask for; a fixed one is ``most``."""
    return FixedLimit(most) if kind == "fixed" else GradientLimit(workers, most)
