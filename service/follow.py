"""Follows the registry's CURRENT: opens what is wanted beside what serves, replaces it, backs off where it cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import structlog

from service.generation import Generation, Step
from service.swap import Generations, NullObserver, SwapObserver, SwapState
from snapshot.errors import NothingPublishedError, RegistryError, SnapshotError
from snapshot.layout import Layout
from snapshot.registry import Registry

Opener = Callable[[Layout, Callable[[Step], None]], Generation]

_log = structlog.get_logger(__name__)


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

    def wait_seconds(self, attempts: int) -> float:
        """How long to leave a snapshot alone that failed so often in a row."""
        doublings = min(attempts - 1, 32)  # 2 ** 32 seconds is beyond any cap, 2 ** 10000 beyond a float
        return min(self.backoff_max_seconds, self.backoff_seconds * 2.0**doublings)


class Outcome(StrEnum):
    """What one step of following came to."""

    UNWANTED = "unwanted"  # the registry says nothing is wanted; what serves, if anything, goes on
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
    """Makes the service serve what the registry says is wanted; whatever goes wrong, what serves goes on serving."""

    def __init__(
        self,
        registry: Registry,
        generations: Generations,
        open_snapshot: Opener,
        options: FollowOptions,
        observer: SwapObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._generations = generations
        self._open_snapshot = open_snapshot
        self._options = options
        self._observer = observer or NullObserver()
        self._clock = clock
        self._desired: str | None = None
        self._failure: Failure | None = None
        self._retry_at = clock()
        self._poked = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def desired(self) -> str | None:
        """The id last read from CURRENT."""
        return self._desired

    @property
    def last_error(self) -> Failure | None:
        """Why what is wanted does not serve; None where it does, or where it is being tried for the first time."""
        return self._failure

    def converge(self) -> Outcome:
        """One step: read what is wanted and, unless it serves or is backing off, open it and replace. Blocks while opening."""
        poked, self._poked = self._poked, False
        if poked:
            self._retry_at = self._clock()
        try:
            self._desired = desired = self._registry.current()
        except RegistryError as error:
            return Outcome.BACKING_OFF if self._backs_off(None) else self._fail(None, error)
        if desired is None:
            return self._nothing_wanted()
        if desired == self._generations.serving:
            self._failure = None
            self._generations.enter(SwapState.SERVING)
            return Outcome.UNCHANGED
        return Outcome.BACKING_OFF if self._backs_off(desired) else self._swap(desired)

    def poke(self) -> None:
        """Look now, and forget any wait: an operator says that something has changed."""
        self._poked = True  # kept for the next step, should one be failing just now
        self._wake.set()

    def start(self) -> None:
        """Step in a thread of its own, every ``poll_seconds``."""
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End the thread; what is being opened is given up at its next step."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if self.converge() is not Outcome.SUPERSEDED:
                self._wake.wait(self._options.poll_seconds)

    def _backs_off(self, desired: str | None) -> bool:
        failure = self._failure
        return failure is not None and failure.snapshot == desired and self._clock() < self._retry_at

    def _nothing_wanted(self) -> Outcome:
        self._retry_at = self._clock()
        error = NothingPublishedError(self._what_to_activate())
        if self._failure is None or self._failure.reason != str(error):
            self._failure = Failure(None, error.code, str(error), datetime.now(UTC), attempts=0)
        self._generations.enter(SwapState.IDLE if self._generations.serving is None else SwapState.SERVING)
        return Outcome.UNWANTED

    def _what_to_activate(self) -> str:
        root = self._registry.root
        try:
            ids = self._registry.ids()
        except OSError:  # only the advice needs them: that nothing is wanted is known
            ids = []
        if ids:
            activate = f"python -m snapshot activate {ids[-1]} --registry {root}"
            return f"{root}: {len(ids)} published, none activated; serve the latest with: {activate}"
        return (
            f"{root}: no snapshot is published; make one with: python -m offline run RECIPE, then: "
            f"python -m snapshot activate ID --registry {root}"
        )

    def _swap(self, desired: str) -> Outcome:
        if self._failure is not None and self._failure.snapshot != desired:
            self._failure = None
        try:
            new = self._open_snapshot(self._registry.layout(desired), lambda step: self._enter(step, desired))
            with ExitStack() as unused:
                unused.callback(new.close)
                self._go_on(desired)
                unused.pop_all()
        except _SupersededError:
            return self._superseded(desired)
        except Exception as error:  # noqa: BLE001 - kept as the reason and counted by code: following must go on
            return self._fail(desired, error)
        self._failure = None
        self._generations.replace(new)
        _log.info("snapshot_serving", snapshot=desired, load_seconds=dict(new.load_seconds), recall=new.proof.recall)
        return Outcome.REPLACED

    def _enter(self, step: Step, desired: str) -> None:
        self._go_on(desired)
        self._generations.enter(SwapState(step))

    def _go_on(self, desired: str) -> None:
        """_SupersededError where ``desired`` is not wanted any more."""
        if self._stopping.is_set() or self._registry.current() != desired:
            raise _SupersededError

    def _superseded(self, desired: str) -> Outcome:
        _log.info("snapshot_superseded", snapshot=desired)
        return Outcome.SUPERSEDED

    def _fail(self, desired: str | None, error: Exception) -> Outcome:
        before = self._failure
        attempts = before.attempts + 1 if before is not None and before.snapshot == desired else 1
        code = error.code if isinstance(error, SnapshotError) else "internal"
        reason = str(error) if isinstance(error, SnapshotError) else f"{type(error).__name__}: {error}"
        self._retry_at = self._clock() + self._options.wait_seconds(attempts)
        self._failure = Failure(desired, code, reason, datetime.now(UTC), attempts)
        self._generations.enter(SwapState.FAILED)
        self._observer.failed(desired, code)
        unforeseen = None if isinstance(error, SnapshotError) else error
        _log.error("snapshot_refused", snapshot=desired, code=code, reason=reason, attempts=attempts, exc_info=unforeseen)
        return Outcome.FAILED


class _SupersededError(Exception):
    """Something else is wanted by now, or nothing any more."""
