"""Work beside the hot path: behind it in the queue for the processor, and in small pieces."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from service.spare import Spare

NICER = 10
"""Ten steps of niceness are a tenth of the weight."""
_PAUSE_SECONDS = 0.0002
"""Between two pieces: long enough for whoever waits for the interpreter's lock to take it."""
_ASK_SECONDS = 0.05


def yield_to_the_event_loop() -> None:
    """Take the processor only while the event loop does not want it: refusals and probes must not wait for work.

    On Linux a thread has a niceness of its own, needs no privilege to raise it, and hands it on to the threads it starts.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICER))


class Pace:
    """Called between two pieces of long work: rests as long as the work must, and asks now and then whether to go on at all."""

    def __init__(
        self,
        go_on: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        spare: Spare | None = None,
        cpu: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Nothing has been done yet.

        Args:
            go_on: raises to give up; asked every 50 ms at most: it may read a file.
            clock: monotonic seconds.
            spare: how much of the processor this work may take.
            cpu: seconds of processor time of the calling thread.
            sleep: for so many seconds.
        """
        self._go_on = go_on
        self._clock = clock
        self._spare = spare or Spare()
        self._cpu = cpu
        self._sleep = sleep
        self._ask_at = clock()
        self._worked = cpu()

    def __call__(self) -> None:
        rest = max(_PAUSE_SECONDS, self._spare.rest_seconds(self._cpu() - self._worked))
        while rest > 0:
            self._sleep(min(rest, _ASK_SECONDS))
            rest -= _ASK_SECONDS
            self._ask()
        self._worked = self._cpu()

    def _ask(self) -> None:
        if self._go_on is not None and self._clock() >= self._ask_at:
            self._go_on()
            self._ask_at = self._clock() + _ASK_SECONDS
