"""Logs: one line an event, JSON for machines or text for people. Query texts are never logged."""

from __future__ import annotations

import io
import logging
import time
from typing import Any, TextIO

import structlog

from service.deadline import Clock
from service.repeats import Repeats
from service.settings import LogFormat, LogLevel

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


_REPEATS_SECONDS = 10.0
AUDIT = "service.audit"
"""Logger of operators' calls, which are written whatever the level."""


def configure(level: LogLevel, form: LogFormat, stream: TextIO, clock: Clock = time.monotonic) -> Repeats:
    """Send structlog and the standard library's logging through one renderer to ``stream``.

    Returns:
        What counts repeated warnings: tick it now and then, and flush it at the end.
    """
    text = form == "text" or (form == "auto" and stream.isatty())
    renderer: Any = _text_renderer(stream) if text else structlog.processors.JSONRenderer()
    before = (_escaped,) if text else (structlog.processors.format_exc_info, _lead)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, renderer]
        )
    )
    repeats = Repeats(clock, _REPEATS_SECONDS)
    handler.addFilter(repeats)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "faiss", "asyncio"):  # what they say below a warning, our own lines say better
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return repeats


def _text_renderer(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    """Tracebacks are plain: the default ones show local variables, and so queries."""
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_traceback)


def _traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    stream.write("\n".join(map(_printable, plain.getvalue().split("\n"))))


def _escaped(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """JSON escapes what strangers sent by itself; as text it must neither begin a line nor move the cursor."""
    return {key: _printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _lead(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When, how bad and what come first in a JSON line."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}
