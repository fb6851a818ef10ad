"""One line, not a million: what clients can cause as often as they like is logged once, and then counted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any

import structlog

from service.deadline import Clock

OURS_BY_REQUEST = ("service.access", "service.tracing")
"""Loggers of ours that a request can make write; what the others say are changes of state, and each counts."""
AUDIT = "service.audit"
"""Logger of operators' calls, which are written whatever the level: each of theirs, and those of strangers counted."""
_MOST_KEYS = 256
"""Kinds of lines that are told apart at a time; those beyond share one count."""
_OTHERS = ("others", logging.WARNING, "many different lines")

_Key = tuple[str, int, str]
_log = structlog.get_logger(__name__)
_audit = structlog.get_logger(AUDIT)


@dataclass(slots=True)
class _Seen:
    since: float
    repeats: int = 0


class Repeats(logging.Filter):
    """Lets a warning or error through once, then counts its repeats and tells their number every so often.

    Lines are alike if logger, level, message before its arguments are filled in, and the place of the exception are; of
    strangers' calls of operators' routes, what came of them. No
    repeat goes uncounted: the sums over all lines are exact. Used by any thread.
    """

    def __init__(self, clock: Clock, every_seconds: float) -> None:
        """Start with nothing seen.

        Args:
            clock: monotonic seconds.
            every_seconds: least time between two lines about the same thing.
        """
        super().__init__()
        self._clock = clock
        self._every_seconds = every_seconds
        self._seen: dict[_Key, _Seen] = {}
        self._lock = Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be written."""
        if record.levelno < logging.WARNING or not by_anybody(record):
            return True
        key = _key(record)
        with self._lock:
            if key not in self._seen and len(self._seen) >= _MOST_KEYS:
                key = _OTHERS
            seen = self._seen.get(key)
            if seen is not None:
                seen.repeats += 1
                return False
            self._seen[key] = _Seen(self._clock())
            return True

    def tick(self) -> None:
        """Tell of the repeats whose time has come, and forget what has not come again."""
        self._tell(self._clock() - self._every_seconds)

    def flush(self) -> None:
        """Tell of all repeats that were not yet told."""
        self._tell(self._clock())

    def _tell(self, latest: float) -> None:
        now, told = self._clock(), []
        with self._lock:
            for key, seen in [item for item in self._seen.items() if item[1].since <= latest]:
                if seen.repeats:
                    told.append((key, seen.repeats, now - seen.since))
                    self._seen[key] = _Seen(now)
                else:
                    del self._seen[key]
        for (name, level, message), count, seconds in told:  # not under the lock: this too is a line
            write = (_audit if name == AUDIT else _log).log
            write(level, "repeated", of=message, by=name, times=count, seconds=round(seconds, 1))


def by_anybody(record: logging.LogRecord) -> bool:
    """Whether a line is one that a client can cause as often as it likes."""
    if record.name == AUDIT:
        said = _said(record)
        return said.get("who") is None and said.get("event") != "repeated"
    return by_request(record.name)


def by_request(logger: str) -> bool:
    """Whether requests can make a logger write; what others of ours say are changes of state."""
    return not logger.startswith("service.") or logger in OURS_BY_REQUEST


def raised(exc_info: Any) -> BaseException | None:
    """The exception of a line, as any caller of a logger may give it."""
    if exc_info is True:
        return sys.exc_info()[1]
    given = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return given if isinstance(given, BaseException) else None


def _said(record: logging.LogRecord) -> Mapping[str, Any]:
    return record.msg if isinstance(record.msg, dict) else {"event": record.msg}


def _key(record: logging.LogRecord) -> _Key:
    said = _said(record)
    event = f"{said.get('event', '')}".strip().partition("\n")[0]  # asyncio's further lines hold the exception
    place = said.get("outcome") or _place(record)
    return record.name, record.levelno, f"{event} ({place})" if place else event


def _place(record: logging.LogRecord) -> str:
    """Type of the exception and the line that raised it, if there is one."""
    error = raised(_said(record).get("exc_info", record.exc_info))
    if error is None:
        return ""
    code, line = _last(error.__traceback__)
    return f"{type(error).__name__} in {code}:{line}"


def _last(traceback: TracebackType | None) -> tuple[str, int]:
    if traceback is None:
        return "?", 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_name, traceback.tb_lineno
