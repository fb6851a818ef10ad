"""A snapshot that this instance alone serves ahead of the registry: how one is brought to a fleet in waves.

A trial holds as long as nobody has said anew what the registry wants since it began, and for a limited time. So the registry
has the last word: whatever is activated there, also what was wanted before, ends every trial, one that nobody ends is
forgotten, and so is one whose process ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from snapshot.registry import Desire


@dataclass(frozen=True, slots=True)
class Trial:
    """What is served in place of what.

    Attributes:
        desire: what this instance wants meanwhile.
        instead_of: what the registry wanted when it began; None where that was nothing.
        ends_at: by the clock of ``Trials``.
    """

    desire: Desire
    instead_of: Desire | None
    ends_at: float


class Trials:
    """At most one at a time. Every method is safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._trial: Trial | None = None

    def begin(self, snapshot: str, instead_of: Desire | None, why: str, who: str, seconds: float, *, force: bool = False) -> None:
        """Want ``snapshot`` for ``seconds``, while the registry's last word is ``instead_of``; a trial that runs is replaced."""
        at = datetime.now(UTC).isoformat()
        with self._lock:
            self._trial = Trial(Desire(snapshot, force, why, who, at), instead_of, self._clock() + seconds)

    def end(self) -> None:
        """Want what the registry wants."""
        with self._lock:
            self._trial = None

    @property
    def running(self) -> Trial | None:
        """The trial, unless its time is over. Whether it still holds, only ``over`` can tell."""
        with self._lock:
            if self._trial is not None and self._clock() >= self._trial.ends_at:
                self._trial = None
            return self._trial

    def left_seconds(self, trial: Trial) -> float:
        """Until its time is over."""
        return max(0.0, trial.ends_at - self._clock())

    def over(self, declared: Desire | None) -> Desire | None:
        """What is wanted here although the registry says ``declared``; None, and the end of the trial, where none holds."""
        trial = self.running
        if trial is None:
            return None
        if trial.instead_of == declared:
            return trial.desire
        with self._lock:
            if self._trial is trial:
                self._trial = None
        return None
