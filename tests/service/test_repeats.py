"""Repeated lines: the first is written, all are counted."""

from __future__ import annotations

import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from manual_clock import ManualClock

from service.logs import configure
from service.repeats import AUDIT, Repeats
from service.settings import LogLevel

pytestmark = pytest.mark.usefixtures("restored_logging")
EVERY_SECONDS = 10.0


class Log:
    """What is written, by a given clock."""

    def __init__(self, level: LogLevel = "info") -> None:
        self.clock = ManualClock()
        self._stream = io.StringIO()
        self.repeats = configure(level, "json", self._stream, self.clock)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def told(self) -> int:
        return sum(line["times"] for line in self.lines() if line["event"] == "repeated")

    def pass_seconds(self, seconds: float) -> None:
        self.clock.advance_ms(seconds * 1000)
        self.repeats.tick()


@pytest.fixture
def log() -> Log:
    return Log()


def test_what_repeats_is_written_once_and_then_counted(log: Log) -> None:
    for number in range(4712):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request %d received.", number)
    assert [line["event"] for line in log.lines()] == ["Invalid HTTP request 0 received."]
    log.pass_seconds(EVERY_SECONDS)
    summary = log.lines()[1]
    assert (summary["event"], summary["level"], summary["times"]) == ("repeated", "warning", 4711)
    assert (summary["of"], summary["by"]) == ("Invalid HTTP request %d received.", "uvicorn.error")
    assert summary["seconds"] == EVERY_SECONDS


def test_a_flood_without_end_is_one_line_in_ten_seconds_and_no_line_is_lost(log: Log) -> None:
    for _ in range(1000):
        logging.getLogger("asyncio").error("out of system resource")
        log.pass_seconds(0.1)
    log.repeats.flush()
    assert len(log.lines()) <= 12
    assert 1 + log.told() == 1000


def test_what_has_been_quiet_is_new_again(log: Log) -> None:
    for _ in range(3):
        logging.getLogger("uvicorn.error").warning("now and then")
        log.pass_seconds(EVERY_SECONDS)
    assert [line["event"] for line in log.lines()] == ["now and then"] * 3


def test_different_lines_do_not_hide_each_other(log: Log) -> None:
    for name in ("uvicorn.error", "asyncio"):
        for message in ("one", "two"):
            logging.getLogger(name).warning(message)
            logging.getLogger(name).error(message)
    assert len(log.lines()) == 8


def test_faults_differ_by_where_they_were_raised(log: Log) -> None:
    ours = structlog.get_logger("service.access")
    for number in range(20):
        try:
            _ = 1 // 0 if number % 2 else [][0]
        except (ZeroDivisionError, IndexError):
            ours.exception("unhandled_error", route="/search", request_id=str(number))
    log.repeats.flush()
    assert [line["event"] for line in log.lines()] == ["unhandled_error"] * 2 + ["repeated"] * 2
    assert log.told() == 18
    assert "ZeroDivisionError" in log.lines()[3]["of"]


def test_changes_of_state_and_what_is_no_warning_are_each_written(log: Log) -> None:
    for number in range(5):
        structlog.get_logger("service.follow").error("swap_failed", snapshot=str(number))
        structlog.get_logger("service.access").info("request", status=200)
    assert len(log.lines()) == 10


def called(outcome: str, who: str | None = None) -> None:
    audit = structlog.get_logger(AUDIT)
    (audit.info if outcome == "ok" else audit.warning)("admin_call", who=who, outcome=outcome)


@pytest.mark.parametrize("level", ["info", "error"])
def test_strangers_write_no_more_lines_than_others_and_hide_no_operator(level: LogLevel) -> None:
    log = Log(level)
    for _ in range(200):
        called("unauthorized")
        called("admin_tokens_invalid")
    for _ in range(3):
        called("ok", "ada")
        called("swap_running", "ada")
    log.pass_seconds(EVERY_SECONDS)
    lines = log.lines()
    assert len(lines) == 2 + 6 + 2
    assert [line["outcome"] for line in lines if line.get("who")] == ["ok", "swap_running"] * 3
    told = {line["of"]: (line["times"], line["by"]) for line in lines if line["event"] == "repeated"}
    assert told == {f"admin_call ({outcome})": (199, AUDIT) for outcome in ("unauthorized", "admin_tokens_invalid")}


def test_lines_of_ever_new_kinds_are_counted_together(log: Log) -> None:
    for number in range(10_000):
        logging.getLogger("library").warning(f"number {number}")  # noqa: G004 - this is what some libraries do
    assert len(log.lines()) < 300
    log.repeats.flush()
    assert len([line for line in log.lines() if line["event"] != "repeated"]) + log.told() == 10_000


def test_threads_lose_no_count(log: Log) -> None:
    def flood(_: int) -> None:
        for _ in range(500):
            logging.getLogger("uvicorn.error").warning("again")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flood, range(8)))
    log.repeats.flush()
    assert 1 + log.told() == 4000


def test_nothing_is_told_twice() -> None:
    repeats = Repeats(ManualClock(), EVERY_SECONDS)
    record = logging.LogRecord("uvicorn", logging.WARNING, "", 0, "again", None, None)
    assert [repeats.filter(record) for _ in range(3)] == [True, False, False]
    with structlog.testing.capture_logs() as lines:
        repeats.flush()
        repeats.flush()
    assert [line["times"] for line in lines] == [2]
