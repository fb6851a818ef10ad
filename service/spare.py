"""How much of the processor a swap may take: all of it while nobody asks anything, and a share of one core under load.

Niceness alone does not do: on cores that are threads of one another, and on virtual ones, whatever else runs slows those who
answer, however far behind them it is in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAST_SECONDS = 0.1
"""Between two looks at how busy the process is."""
_OLD_SECONDS = 5.0
"""What was seen longer ago says nothing about now."""
_BUSY = 2.0
"""So many times what requests take of the cores is left alone: from half of them on, a swap gets its least."""


class Spare:
    """Of one core, what work beside requests may take just now. For one thread, whose own time does not count as requests'."""

    def __init__(
        self,
        least: float = 1.0,
        cores: int = 1,
        clock: Callable[[], float] = time.monotonic,
        all_threads: Callable[[], float] = time.process_time,
        this_thread: Callable[[], float] = time.thread_time,
        most: float = 1.0,
    ) -> None:
        """Nothing is known yet.

        Args:
            least: of one core, from 0 to 1, that it may take however busy the service is.
            cores: that requests may take.
            clock: monotonic seconds.
            all_threads: seconds of processor time that this process has taken.
            this_thread: the same of the calling thread.
            most: of one core, from ``least`` to 1, that it may take however idle the service is.
        """
        self._least = least
        self._most = most
        self._cores = cores
        self._clock = clock
        self._all_threads = all_threads
        self._this_thread = this_thread
        self._at = self._taken = 0.0
        self._share = least

    def share(self) -> float:
        """From ``least`` to ``most``."""
        now = self._clock()
        passed = now - self._at
        if passed >= _LEAST_SECONDS:
            taken = self._all_threads() - self._this_thread()
            busy = (taken - self._taken) / passed / self._cores
            self._share = max(self._least, 1.0 - _BUSY * busy) if passed <= _OLD_SECONDS else self._least
            self._at, self._taken = now, taken
        return min(self._most, self._share)

    def rest_seconds(self, worked_seconds: float) -> float:
        """How long to rest after so much work."""
        return worked_seconds * (1.0 / self.share() - 1.0)
