"""A circuit breaker: what keeps failing is not asked again by requests, but by one probe at a time, until it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

import structlog

from snapshot.errors import EngineError, EngineUnavailableError

_LATE_SECONDS = 1.0
_LATE_ANSWERS = 5
"""So many that were late, and none that was not, within so long or longer, are a failure whatever time each was given."""

_log = structlog.get_logger(__name__)


class State(StrEnum):
    """CLOSED: requests go through. OPEN: none does. HALF_OPEN: none does, and a probe is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after failures in a row, and closes when a probe succeeds. Safe from any thread."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], None],
        *,
        most_failures: int = 3,
        probe_seconds: float = 1.0,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Closed; no thread runs before it opens.

        Args:
            name: of what is guarded, for messages.
            probe: asks it whether all is well; raises EngineError where not. Called on a thread of the breaker's own.
            most_failures: in a row, that open it.
            probe_seconds: between two probes.
            wait: for so many seconds; true where the breaker was closed for good meanwhile.
            clock: monotonic seconds.
        """
        self._name = name
        self._probe = probe
        self._most = most_failures
        self._seconds = probe_seconds
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._failures = 0
        self._clock = clock
        self._late = 0
        self._late_since = 0.0
        self._last: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        """As it is now."""
        return self._state

    def look(self) -> tuple[State, Exception | None]:
        """As it is now, and the last failure unless it is closed."""
        state = self._state
        return state, None if state is State.CLOSED else self._last

    def check(self) -> None:
        """EngineUnavailableError, at once, unless it is closed."""
        if self._state is not State.CLOSED:
            raise EngineUnavailableError(
                f"{self._name} is not asked for now ({self._last}); it is tried every {self._seconds:g} s, and requests go there "
                "again once it answers"
            )

    def succeeded(self) -> None:
        """An answer came."""
        if self._failures or self._late:
            with self._lock:
                self._failures = self._late = 0

    def late(self, error: EngineError) -> None:
        """No answer came in a time that is short for one: a failure only where others have fared no better for a while."""
        with self._lock:
            now = self._clock()
            if not self._late:
                self._late_since = now
            self._late += 1
            if self._late < _LATE_ANSWERS or now - self._late_since < _LATE_SECONDS:
                return
            self._late = 0
        self.failed(error)

    def failed(self, error: EngineError, *, at_once: bool = False) -> None:
        """No answer came, or a wrong one; ``at_once``: that one is enough."""
        with self._lock:
            self._failures += 1
            self._last = error
            if self._state is not State.CLOSED or self._stopping.is_set() or (self._failures < self._most and not at_once):
                return
            self._state = State.OPEN
            self._thread = threading.Thread(target=self._recover, name="engine-probe", daemon=True)
            self._thread.start()
        _log.error("engine_unavailable", engine=self._name, code=error.code, reason=str(error), failures=self._failures)

    def stop(self) -> None:
        """No more probes."""
        self._stopping.set()

    def _recover(self) -> None:
        while not self._wait(self._seconds):
            self._state = State.HALF_OPEN
            try:
                self._probe()
            except Exception as error:  # noqa: BLE001 - kept as the reason: whatever a probe meets, the next one must come
                self._last, self._state = error, State.OPEN
                continue
            with self._lock:
                self._failures, self._state = 0, State.CLOSED
            _log.info("engine_recovered", engine=self._name)
            return


def breaker_of(engine: object) -> Breaker | None:
    """The breaker of an engine on another machine; None of one in this process."""
    found = getattr(engine, "breaker", None)
    return found if isinstance(found, Breaker) else None
