"""Lines are written by a thread of their own: whoever logs never waits for a disk or for whoever reads the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal, TextIO

import structlog

Cause = Literal["queue_full", "write_failed"]
CAUSES: tuple[Cause, ...] = ("queue_full", "write_failed")

MOST_WAITING = 10_000
"""Lines; a few megabytes. Beyond, they are dropped."""

_log = structlog.get_logger(__name__)


class LogWriter(logging.Handler):
    """Takes records from any thread, at once; what it cannot take or write is counted.

    Formatting is done by its thread too: a traceback reads source files. Not ``logging.handlers.QueueHandler``: its queue has a
    lock, which a finalizer that logs in the middle of a put would wait for for ever, and its end waits for the stream.
    """

    def __init__(self, stream: TextIO, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._lines = _Lines(stream, lambda: self._lost("write_failed"))
        self._most_waiting = most_waiting
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._dropped: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._told = 0
        self._counting = threading.RLock()
        self._counter: Callable[[Cause, int], object] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - logging's name
        self._lines.setFormatter(fmt)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def count(self, counter: Callable[[Cause, int], object]) -> None:
        """Tell ``counter`` of lines that were lost, those so far included."""
        with self._counting:
            self._counter = counter
            for cause, number in self._dropped.items():
                counter(cause, number)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; called under the handler's lock."""
        if self._ended:
            self._lines.emit(record)
            return
        if self._queue.qsize() >= self._most_waiting:
            self._lost("queue_full")
            return
        if record.args:  # they may change, or be large, before they are written
            record.msg, record.args = record.getMessage(), None
        self._queue.put(record)

    def end(self, timeout_seconds: float) -> bool:
        """Write what waits, and from now on at once; False where that takes longer: then nothing may touch the stream."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_seconds)
        self._ended = not self._thread.is_alive()
        return self._ended

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            self._lines.emit(record)  # not ``handle``: a lock held by a write that hangs would hold up the end
            if self._queue.qsize() <= self._most_waiting // 2:
                self._tell()
        self._tell()
        while not self._queue.empty():  # what came meanwhile
            if (record := self._queue.get()) is not None:
                self._lines.emit(record)

    def _tell(self) -> None:
        """Once there is room again, a line about the lines that are missing."""
        lost = self._dropped["queue_full"]
        if lost > self._told:
            missing, self._told = lost - self._told, lost
            _log.warning("log_lines_dropped", lines=missing)

    def _lost(self, cause: Cause) -> None:
        with self._counting:
            self._dropped[cause] += 1
            if self._counter is not None:
                self._counter(cause, 1)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes; an error is counted, where logging would print a traceback to the same stream."""

    def __init__(self, stream: TextIO, failed: Callable[[], None]) -> None:
        super().__init__(stream)
        self._failed = failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's signature
        self._failed()
