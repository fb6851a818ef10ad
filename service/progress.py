"""What a swap has been through so far, step by step: for operators who watch one, or ask why one took so long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from service.deadline import Clock
from service.generation import Generation
from service.memory import Freed
from service.swap import SwapObserver, SwapState

AT_REST = (SwapState.IDLE, SwapState.SERVING, SwapState.DRAINING, SwapState.FAILED)
"""States in which nothing is being done; every other one is a step of a swap."""


@dataclass(frozen=True, slots=True)
class SwapStep:
    """A step of the last swap.

    Attributes:
        name: of the state that it was.
        seconds: that it took, or has taken so far.
        running: whether it goes on.
    """

    name: str
    seconds: float
    running: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """The last attempt to serve another snapshot, done or not.

    Attributes:
        snapshot: that it was about; None where there was none yet, or while that is not over.
        began_at: when its first step began, UTC; None where there was no attempt yet.
        since: when the present state was entered, UTC.
        steps: in their order.
    """

    snapshot: str | None = None
    began_at: datetime | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    steps: tuple[SwapStep, ...] = ()

    @property
    def running(self) -> bool:
        return bool(self.steps) and self.steps[-1].running


class Progress:
    """A SwapObserver that keeps the timeline of the last swap. Safe from any thread."""

    def __init__(self, clock: Clock, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Start with no attempt.

        Args:
            clock: monotonic seconds, for durations.
            now: UTC, for moments.
        """
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._timeline = Timeline(since=now())
        self._begun = clock()

    @property
    def timeline(self) -> Timeline:
        """As it is now, with the running step's time so far."""
        with self._lock:
            return replace(self._timeline, steps=self._steps(running=True))

    def entered(self, state: SwapState) -> None:
        """Ends the running step. A step that is in the timeline already begins the next attempt."""
        with self._lock:
            now, before, steps = self._now(), self._timeline, self._steps(running=False)
            if state in AT_REST:
                self._timeline = replace(before, since=now, steps=steps)
                return
            again = not before.running or any(step.name == state.value for step in steps)
            kept = () if again else steps
            began_at = now if again else before.began_at
            snapshot = None if again else before.snapshot
            self._timeline = Timeline(snapshot, began_at, now, (*kept, SwapStep(state.value, 0.0, running=True)))
            self._begun = self._clock()

    def replaced(self, new: Generation, old: str | None) -> None:  # noqa: ARG002 - the observer's signature
        with self._lock:
            self._timeline = replace(self._timeline, snapshot=new.id)

    def failed(self, snapshot: str | None, code: str) -> None:  # noqa: ARG002 - the observer's signature
        """Names the attempt. One that came to no step has none; a registry that cannot be read is no attempt."""
        if snapshot is None:
            return
        with self._lock:
            before = self._timeline
            came_to_steps = before.snapshot is None and before.steps
            self._timeline = (
                replace(before, snapshot=snapshot) if came_to_steps else Timeline(snapshot, self._now(), before.since)
            )

    def closed(self, snapshot: str, freed: Freed) -> None:
        """Memory given back; no step of what comes next."""

    def returned(self, to: Generation, left: str) -> None:  # noqa: ARG002 - the observer's signature
        """Served again as it was still open: there was nothing to load."""
        with self._lock:
            self._timeline = Timeline(to.id, self._now(), self._timeline.since)

    def _steps(self, *, running: bool) -> tuple[SwapStep, ...]:
        """The timeline's, the last one with its time so far if it runs; needs the lock."""
        steps = self._timeline.steps
        if not self._timeline.running:
            return steps
        return (*steps[:-1], SwapStep(steps[-1].name, self._clock() - self._begun, running))


class Observers:
    """A SwapObserver that tells several, in their order."""

    def __init__(self, *observers: SwapObserver) -> None:
        self._observers = observers

    def entered(self, state: SwapState) -> None:
        for observer in self._observers:
            observer.entered(state)

    def replaced(self, new: Generation, old: str | None) -> None:
        for observer in self._observers:
            observer.replaced(new, old)

    def failed(self, snapshot: str | None, code: str) -> None:
        for observer in self._observers:
            observer.failed(snapshot, code)

    def closed(self, snapshot: str, freed: Freed) -> None:
        for observer in self._observers:
            observer.closed(snapshot, freed)

    def returned(self, to: Generation, left: str) -> None:
        for observer in self._observers:
            observer.returned(to, left)
