"""The door: how many requests are worked on at a time. Counting (Limiter) is apart from the number (Limit).

Concurrency is limited, not rate: by Little's law it is the product of rate and latency, so one number holds
whatever a request costs (Netflix's concurrency-limits makes the argument and the same cut).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from service.errors import DrainingError, OverloadedError

_WEIGHT = 0.1
"""Of the newest sample in the moving average: it follows a change within some twenty requests."""
_FIRST_GUESS_MS = 5.0
_JITTER = 0.5
"""Retries are spread over 1 ± this, so that those refused together do not come back together."""


class Outcome(StrEnum):
    """What became of an admitted request."""

    DONE = "done"
    FAILED = "failed"  # ended early: its time says nothing about what a request costs
    DROPPED = "dropped"  # too late, or its caller gone: a sign of overload


class Limit(Protocol):
    """The number. Called on one thread."""

    @property
    def value(self) -> int:
        """Requests that may be in flight now; at least 1."""

    def observe(self, service_ms: float, in_flight: int, outcome: Outcome) -> None:
        """Learn from a request that has ended; ``in_flight`` counts it still."""


class FixedLimit:
    """A number from the settings."""

    def __init__(self, value: int) -> None:
        self.value = value

    def observe(self, service_ms: float, in_flight: int, outcome: Outcome) -> None:
        """A fixed number learns nothing."""


class Token:
    """The right to be worked on; given back once."""

    __slots__ = ("_limiter", "_open")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._open = True

    def release(self, service_ms: float, outcome: Outcome) -> None:
        """Give the token back; ``service_ms`` is the time on a worker thread, waiting apart."""
        if self._open:
            self._open = False
            self._limiter.released(service_ms, outcome)


class Limiter:
    """Counts requests in flight and refuses those beyond the limit. Used on the event loop only."""

    def __init__(self, limit: Limit, workers: int, random: Callable[[], float]) -> None:
        """Start empty.

        Args:
            limit: says how many.
            workers: threads that work at a time.
            random: uniform on [0, 1).
        """
        self._limit = limit
        self._workers = workers
        self._random = random
        self._service_ms = _FIRST_GUESS_MS
        self.in_flight = 0
        self.draining = False

    @property
    def limit(self) -> int:
        return self._limit.value

    def acquire(self) -> Token:
        """Come in.

        Raises:
            DrainingError: the service is shutting down.
            OverloadedError: the limit is reached.
        """
        if self.draining:
            raise DrainingError("this instance is shutting down; send the request to another one")
        if self.in_flight >= self.limit:
            wait = self.wait_ms()
            raise OverloadedError(f"{self.in_flight} requests are in flight, the limit; retry in {math.ceil(wait)} ms", wait)
        self.in_flight += 1
        return Token(self)

    def wait_ms(self) -> float:
        """How long what is in flight takes to be worked off, jittered."""
        rounds = math.ceil(self.in_flight / self._workers)
        return rounds * self._service_ms * (1 - _JITTER + 2 * _JITTER * self._random())

    def released(self, service_ms: float, outcome: Outcome) -> None:
        """Called by tokens only."""
        self._limit.observe(service_ms, self.in_flight, outcome)
        self.in_flight -= 1
        if outcome is Outcome.DONE:
            self._service_ms += _WEIGHT * (service_ms - self._service_ms)

    def drain(self) -> None:
        """Let nobody in from now on."""
        self.draining = True
