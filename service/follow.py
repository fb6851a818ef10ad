"""Follows the registry's CURRENT: opens what is wanted beside what serves, replaces it, backs off where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.generation import Generation, Step
from service.swap import Generations, SwapObserver
from snapshot.layout import Layout
from snapshot.registry import Registry

Opener = Callable[[Layout, Callable[[Step], None]], Generation]


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """When to look and when to try again.

    Attributes:
        poll_seconds: how often CURRENT is read.
        backoff_seconds: wait after the first failure of a snapshot; doubled by each further one.
        backoff_max_seconds: the longest wait.
    """

    poll_seconds: float = 1.0
    backoff_seconds: float = 1.0
    backoff_max_seconds: float = 60.0


class Outcome(StrEnum):
    """What one step of following came to."""

    UNCHANGED = "unchanged"  # what is wanted serves
    REPLACED = "replaced"
    SUPERSEDED = "superseded"  # something else was wanted before this one was ready: step again at once
    FAILED = "failed"
    BACKING_OFF = "backing_off"  # failed before and its wait is not over


@dataclass(frozen=True, slots=True)
class Failure:
    """Why what is wanted does not serve.

    Attributes:
        snapshot: the id that is wanted; None where that itself cannot be told.
        code: the error's stable code.
        reason: the error's message: what, where, what to do.
        at: when it last failed, UTC.
        attempts: how often it failed in a row.
    """

    snapshot: str | None
    code: str
    reason: str
    at: datetime
    attempts: int


class Follower:
    """Makes the service serve what the registry says is wanted."""

    def __init__(
        self,
        registry: Registry,
        generations: Generations,
        open_snapshot: Opener,
        options: FollowOptions,
        observer: SwapObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        raise NotImplementedError

    @property
    def desired(self) -> str | None:
        """The id last read from CURRENT."""
        raise NotImplementedError

    @property
    def last_error(self) -> Failure | None:
        """Why what is wanted does not serve; None where it does."""
        raise NotImplementedError

    def converge(self) -> Outcome:
        """One step: read what is wanted and, unless it serves or is backing off, open it and replace. Blocks while opening."""
        raise NotImplementedError

    def poke(self) -> None:
        """Look now, and forget any wait: an operator says that something has changed."""
        raise NotImplementedError

    def start(self) -> None:
        """Step in a thread of its own, every ``poll_seconds``."""
        raise NotImplementedError

    def stop(self, timeout_seconds: float) -> None:
        """End the thread; what is being opened is given up at its next step."""
        raise NotImplementedError
