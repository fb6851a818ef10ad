"""Whether and when to ask again: only where the service says so, and only within the deadline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.client.errors import ClientError, OverloadedError, UnavailableError


@dataclass(frozen=True, slots=True)
class Retry:
    """How calls are repeated.

    Attributes:
        attempts: most in all; 1: none is repeated.
        jitter: of the wait that the service asks for, how much is added at most, at random, so that those who were refused
            together do not come back together.
    """

    attempts: int = 3
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.jitter < 0:
            raise ValueError(f"attempts {self.attempts} must be 1 or more, and jitter {self.jitter:g} not below 0")

    def wait_ms(self, error: ClientError, made: int, remaining_ms: float, random: Callable[[], float]) -> float | None:
        """How long to wait before the next attempt; None where there must not be one.

        Args:
            error: what the last attempt ended in.
            made: attempts so far.
            remaining_ms: of the call's budget. A wait that would leave nothing of it is not begun.
            random: uniform in [0, 1).
        """
        if made >= self.attempts or not isinstance(error, OverloadedError | UnavailableError):
            return None
        if error.retry_after_ms is None:
            return None
        wait_ms = error.retry_after_ms * (1.0 + self.jitter * random())
        return wait_ms if wait_ms < remaining_ms else None
