"""Logs: one line an event, JSON for machines or text for people. Query texts are never logged unless that was asked for.

Nothing that a client sends can end a line or reach a terminal as a control character: JSON escapes, and so does text here.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from datetime import UTC, datetime
from textwrap import indent
from typing import Any, TextIO

import structlog

from service.deadline import Clock
from service.log_writer import LogWriter
from service.repeats import AUDIT, Repeats, by_request, raised
from service.settings import LogFormat, LogLevel
from service.tracebacks import whole, without_messages

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.StackInfoRenderer(),
)


_REPEATS_SECONDS = 10.0
_MOST_CHARACTERS = 4096
"""Of one text in a line, tracebacks apart: a path may have as many as a request's headers may."""
_UNSEEN = r"\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff"
"""Controls, ends of lines, and what turns or hides text, beside those of ASCII."""
_CONTROL = re.compile(rf"[\x00-\x1f{_UNSEEN}]")
_CONTROL_BUT_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNSEEN}]")


def configure(
    level: LogLevel,
    form: LogFormat,
    stream: TextIO,
    clock: Clock = time.monotonic,
    writer: LogWriter | None = None,
    *,
    queries: bool = False,
) -> Repeats:
    """Send structlog and the standard library's logging through one renderer to ``stream``.

    Args:
        level: least severity.
        form: of the lines.
        stream: where they go.
        clock: monotonic seconds.
        writer: writes to ``stream`` on a thread of its own; without one, whoever logs does.
        queries: whether lines may show them, and so the messages of exceptions that a request can raise.

    Returns:
        What counts repeated warnings: tick it now and then, and flush it at the end.
    """
    text = form == "text" or (form == "auto" and stream.isatty())
    renderer: Any = _text_renderer(stream) if text else structlog.processors.JSONRenderer()
    first = () if queries else (_first_line,)
    before = (_escaped, _exceptions(queries, text)) if text else (_exceptions(queries, text), _lead)
    handler: logging.Handler = writer or logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[_stamped, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *first, _cut, *before, renderer],
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
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _caught,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return repeats


def _text_renderer(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    """The formatter is never asked: exceptions are text by then. The default one shows local variables, and so queries."""
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _first_line(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Of what asyncio says: its further lines hold the exception again."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _exceptions(queries: bool, text: bool) -> structlog.typing.Processor:
    """Makes texts of exceptions, without what might quote a query unless ``queries`` may be seen."""

    def processor(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        hides = not queries and by_request(str(event.get("logger")))
        error = raised(event.pop("exc_info", None))
        if error is not None:
            written = (without_messages if hides else whole)(error)
            event["exception"] = indent(_CONTROL_BUT_LINES.sub(_escape, written), "    ") if text else written
        return event

    return processor


def _caught(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The exception that is being handled by whoever logs: the thread that writes does not know it."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _stamped(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When it was logged, not when it is written."""
    created = datetime.fromtimestamp(event["_record"].created, UTC)
    event["timestamp"] = created.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return event


def _cut(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """No text is longer than somebody would read."""
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _MOST_CHARACTERS and key != "exception":
            event[key] = f"{value[:_MOST_CHARACTERS]}…"
    return event


def _escaped(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Control characters as Python writes them; what is no text is written by ``repr``, which does the same."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CONTROL.sub(_escape, value)
    return event


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _lead(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When, how bad and what come first in a JSON line."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}
