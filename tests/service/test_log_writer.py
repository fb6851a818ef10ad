"""Lines written by a thread of their own: nobody waits, and what is missing is counted."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.log_writer import LogWriter
from service.logs import configure

pytestmark = pytest.mark.usefixtures("restored_logging")
WAIT_SECONDS = 30.0


class Slow(io.StringIO):
    """A reader that stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.asked = threading.Event()
        self.by: set[str] = set()

    def write(self, text: str) -> int:
        self.by.add(threading.current_thread().name)
        self.asked.set()
        assert self.reads.wait(WAIT_SECONDS)
        return super().write(text)


class Log:
    def __init__(self, stream: io.StringIO, most_waiting: int = 100) -> None:
        self.stream = stream
        self.lost: Counter[str] = Counter()
        self.writer = LogWriter(stream, most_waiting)
        configure("info", "json", stream, time.monotonic, self.writer)
        self.writer.start()

    def count(self) -> None:
        self.writer.count(lambda cause, number: self.lost.update({cause: number}))

    def lines(self) -> list[dict[str, Any]]:
        assert self.writer.end(WAIT_SECONDS)
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def slow() -> Iterator[Slow]:
    stream = Slow()
    yield stream
    stream.reads.set()


def test_whoever_logs_does_not_wait_for_a_reader_that_stands_still(slow: Slow) -> None:
    log, ours = Log(slow), structlog.get_logger("here")
    for number in range(50):
        ours.info("happened", number=number)
    assert slow.asked.wait(WAIT_SECONDS)
    assert slow.getvalue() == ""
    slow.reads.set()
    assert [line["number"] for line in log.lines()] == list(range(50))
    assert slow.by == {"log-writer"}


def test_what_does_not_fit_is_dropped_counted_and_told_of(slow: Slow) -> None:
    log, ours = Log(slow, most_waiting=10), structlog.get_logger("here")
    ours.info("first")
    assert slow.asked.wait(WAIT_SECONDS)
    for number in range(25):
        ours.info("happened", number=number)
    log.count()
    assert +log.lost == {"queue_full": 15}
    ours.info("lost too")
    assert +log.lost == {"queue_full": 16}
    slow.reads.set()
    lines = log.lines()
    assert [line["number"] for line in lines if line["event"] == "happened"] == list(range(10))
    [told] = [line["lines"] for line in lines if line["event"] == "log_lines_dropped"]
    assert told == 16


def test_a_reader_that_never_reads_does_not_hold_up_the_end(slow: Slow) -> None:
    log = Log(slow)
    structlog.get_logger("here").info("happened")
    assert slow.asked.wait(WAIT_SECONDS)
    assert not log.writer.end(0.01)


def test_a_stream_that_cannot_be_written_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.count()
    stream.close()
    structlog.get_logger("here").info("happened")
    assert log.writer.end(WAIT_SECONDS)
    assert +log.lost == {"write_failed": 1}
    assert capsys.readouterr() == ("", "")


def test_after_the_end_lines_are_written_at_once() -> None:
    log = Log(io.StringIO())
    assert log.writer.end(WAIT_SECONDS)
    structlog.get_logger("here").info("late")
    assert [line["event"] for line in log.lines()] == ["late"]


def test_arguments_are_filled_in_when_the_line_is_logged(slow: Slow) -> None:
    log, changing = Log(slow), ["before"]
    logging.getLogger("elsewhere").warning("%s", changing)
    changing[:] = ["after"]
    slow.reads.set()
    assert [line["event"] for line in log.lines()] == ["['before']"]


def test_tracebacks_are_written_by_that_thread_too(slow: Slow) -> None:
    log = Log(slow)
    try:
        int("wrong")
    except ValueError:
        structlog.get_logger("service.here").exception("failed")
    slow.reads.set()
    [line] = log.lines()
    assert "ValueError: invalid literal" in line["exception"]
