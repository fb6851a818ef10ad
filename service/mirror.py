"""Follows a registry elsewhere: what is wanted there is brought into the folder that this service follows, and wanted here.

The follower knows nothing of it: it sees a snapshot appear in its registry, and CURRENT move. Whatever is wrong with the
remote registry, what serves goes on. Only a change of the remote pointer moves the one here: an operator, or a service
that rolled back by itself, may want something else here until then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

import structlog

from service.cache_room import Room
from service.trial import Trials
from snapshot.errors import SnapshotError, TransferCancelledError
from snapshot.pointer import Seen
from snapshot.pull import Pulled, PullOptions
from snapshot.registry import Desire, Registry
from snapshot.signing import Trust

WHO = "remote"
"""Who wants it, in the history of the registry here."""

_log = structlog.get_logger(__name__)


class RemoteRegistry(Protocol):
    """The registry that is followed; see ``snapshot.remote.Remote``."""

    @property
    def url(self) -> str: ...

    def look(self) -> Seen: ...

    def desired(self) -> Desire | None: ...

    def pull(self, snapshot_id: str, registry: Registry, options: PullOptions | None = None) -> Pulled: ...


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """When to look.

    Attributes:
        poll_seconds: between two looks, on average; each wait is drawn from 0.5 to 1.5 times that, so that many services
            do not ask in step.
        backoff_max_seconds: the longest wait after failures, each of which doubles it.
        trust: whose signatures count.
    """

    poll_seconds: float = 5.0
    backoff_max_seconds: float = 300.0
    trust: Trust | None = None

    def wait_seconds(self, failures: int, drawn: float) -> float:
        """How long to wait after so many failures in a row; ``drawn`` is from 0 to 1."""
        longest = max(self.backoff_max_seconds, self.poll_seconds)
        return min(longest, self.poll_seconds * 2.0 ** min(failures, 32)) * (0.5 + drawn)


class MirrorState(StrEnum):
    """What is being done about the remote registry."""

    OFF = "off"  # none is configured
    FOLLOWING = "following"  # the last look succeeded
    PULLING = "pulling"
    FAILING = "failing"  # the last look or pull failed; it is tried again


class MirrorObserver(Protocol):
    """Hears of the remote registry, for metrics; called from the mirror's thread and must not raise."""

    def mirror_entered(self, state: MirrorState) -> None: ...

    def mirror_succeeded(self) -> None: ...

    def mirror_failed(self, code: str) -> None: ...

    def mirror_fetched(self, count: int) -> None: ...

    def mirror_cached(self, count: int) -> None: ...


class NullMirrorObserver:
    """Hears and does nothing."""

    def mirror_entered(self, state: MirrorState) -> None: ...

    def mirror_succeeded(self) -> None: ...

    def mirror_failed(self, code: str) -> None: ...

    def mirror_fetched(self, count: int) -> None: ...

    def mirror_cached(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """How it stands with the remote registry.

    Attributes:
        url: of the registry.
        state: what is being done.
        desired: the id wanted there, as last seen.
        succeeded_at: when it was last read, and all that was wanted was here, UTC.
        code: of the last failure, with its ``reason``; None while it works.
    """

    url: str
    state: MirrorState
    desired: str | None
    succeeded_at: datetime | None
    code: str | None
    reason: str | None


class Mirror:
    """Keeps what is wanted elsewhere in the registry here."""

    def __init__(
        self,
        remote: RemoteRegistry,
        registry: Registry,
        room: Room,
        options: MirrorOptions,
        observer: MirrorObserver | None = None,
        moved: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        trials: Trials | None = None,
    ) -> None:
        """``moved`` is called when the pointer here was moved, or what is tried here has come."""
        self._remote = remote
        self._registry = registry
        self._room = room
        self._options = options
        self._observer = observer or NullMirrorObserver()
        self._moved = moved
        self._clock = clock
        self._trials = trials or Trials()
        self._done: Seen | None = None
        self._failures = 0
        self._looked_at = clock()
        self._status = MirrorStatus(remote.url, MirrorState.FOLLOWING, None, None, None, None)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> MirrorStatus:
        return self._status

    def step(self) -> MirrorState:
        """Look once, and bring what is wanted; blocks while pulling."""
        try:
            seen = self._remote.look()
            if seen.snapshot is not None and seen != self._done:
                self._follow(seen, seen.snapshot)
            trial = self._trials.running
            if trial is None:
                self._room.tidy()
            elif trial.desire.snapshot not in self._registry.ids():
                self._bring(trial.desire.snapshot, lambda: self._is_stale(seen) or self._trials.running != trial)
                self._moved()
        except TransferCancelledError:
            return self._status.state  # something else is wanted, or nothing any more
        except Exception as error:  # noqa: BLE001 - counted by code and kept as the reason: what serves must go on
            return self._fail(error)
        return self._succeed(seen)

    def poke(self) -> None:
        """Look now."""
        self._wake.set()

    def start(self) -> None:
        """Step in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End the thread; what is being pulled is given up, and gone on with at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self.step()
            if self._status.state is not MirrorState.PULLING:  # else superseded: look again at once
                self._wake.wait(self._options.wait_seconds(self._failures, random.random()))  # noqa: S311 - no secret

    def _follow(self, seen: Seen, snapshot_id: str) -> None:
        declared = self._remote.desired()
        desire = declared if declared is not None and declared.snapshot == snapshot_id else Desire(snapshot_id)
        if not self._was_mirrored(desire):
            self._bring(snapshot_id, lambda: self._is_stale(seen))
            self._point(desire)
        self._done = seen

    def _bring(self, snapshot_id: str, cancelled: Callable[[], bool]) -> None:
        self._enter(MirrorState.PULLING, snapshot_id)
        self._looked_at = self._clock()
        self._remote.pull(
            snapshot_id,
            self._registry,
            PullOptions(
                trust=self._options.trust,
                progress=_Fetched(self._observer.mirror_fetched),
                cancelled=cancelled,
                who=WHO,
                make_room=self._room.make,
            ),
        )

    def _was_mirrored(self, desire: Desire) -> bool:
        """By an earlier process: what was wanted here since then stays."""
        if self._done is not None or desire.snapshot not in self._registry.ids():
            return False
        ours = [event for event in self._registry.history() if event.who == WHO and event.action in ("activate", "rollback")]
        return bool(ours) and ours[-1].snapshot == desire.snapshot and ours[-1].forced >= desire.forced

    def _point(self, desire: Desire) -> None:
        """Move the pointer here; back, where it was before, so that it counts as going back.

        What is wanted here already is declared anew where it was there: by force now, or once more after it was refused.
        """
        snapshot_id, here = desire.snapshot, self._registry.desired()
        if here is not None and here.snapshot == snapshot_id and self._done is None and here.forced >= desire.forced:
            return
        why = f"{desire.why or 'wanted there'} ({desire.who or 'unknown'}, {self._remote.url})"
        if self._registry.before() == snapshot_id and not desire.forced:
            self._registry.rollback(why, WHO)
        else:
            self._registry.activate(snapshot_id, why, WHO, desire.forced)
        _log.info("remote_mirrored", snapshot=snapshot_id, url=self._remote.url)
        self._moved()

    def _is_stale(self, seen: Seen) -> bool:
        """Whether to give a pull up; looked at as often as without one."""
        if self._stopping.is_set():
            return True
        now = self._clock()
        if now - self._looked_at < self._options.poll_seconds:
            return False
        self._looked_at = now
        return self._remote.look() != seen

    def _succeed(self, seen: Seen) -> MirrorState:
        if self._status.code is not None:
            _log.info("remote_recovered", url=self._remote.url, failures=self._failures)
        self._failures = 0
        self._status = MirrorStatus(self._remote.url, MirrorState.FOLLOWING, seen.snapshot, datetime.now(UTC), None, None)
        self._observer.mirror_entered(MirrorState.FOLLOWING)
        self._observer.mirror_succeeded()
        self._observer.mirror_cached(self._room.used_bytes)
        return self._status.state

    def _fail(self, error: Exception) -> MirrorState:
        known = isinstance(error, SnapshotError)
        code = error.code if isinstance(error, SnapshotError) else "internal"
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        self._failures += 1
        if code != self._status.code:  # once for each cause: a store may be gone for hours
            _log.error("remote_failed", url=self._remote.url, code=code, reason=reason, exc_info=None if known else error)
        before = self._status
        self._status = MirrorStatus(before.url, MirrorState.FAILING, before.desired, before.succeeded_at, code, reason)
        self._observer.mirror_entered(MirrorState.FAILING)
        self._observer.mirror_failed(code)
        return self._status.state

    def _enter(self, state: MirrorState, desired: str) -> None:
        before = self._status
        self._status = MirrorStatus(before.url, state, desired, before.succeeded_at, before.code, before.reason)
        self._observer.mirror_entered(state)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Progress of a pull, as a counter."""

    count: Callable[[int], None]

    def begin(self, what: str, total_bytes: int) -> None:
        _log.info("remote_pulling", what=what, bytes=total_bytes)

    def advance(self, count: int) -> None:
        self.count(count)
