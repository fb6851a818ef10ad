"""Log lines: one an event, in either form, and never a query in them."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from serving import client_of, make_registry

from service.logs import configure
from service.settings import LogFormat

pytestmark = pytest.mark.usefixtures("restored_logging")


def test_a_json_line_says_when_how_bad_and_what_first() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    structlog.get_logger("here").info("happened", snapshot="one", seconds=1.5)
    logging.getLogger("elsewhere").warning("of %d", 3)
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert list(ours)[:3] == ["timestamp", "level", "event"]
    assert (ours["event"], ours["level"], ours["logger"], ours["seconds"]) == ("happened", "info", "here", 1.5)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("of 3", "warning", "elsewhere")


def test_the_level_holds_for_all() -> None:
    stream = io.StringIO()
    configure("warning", "json", stream)
    structlog.get_logger("here").info("quiet")
    logging.getLogger("elsewhere").info("quiet")
    assert stream.getvalue() == ""


def test_auto_is_json_where_nobody_watches() -> None:
    stream = io.StringIO()
    configure("info", "auto", stream)
    structlog.get_logger("here").info("happened")
    assert json.loads(stream.getvalue())["event"] == "happened"


@pytest.mark.parametrize("form", ["json", "text"])
def test_neither_access_log_nor_faults_show_a_query(form: LogFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    make_registry(tmp_path)
    configure("info", form, stream)
    with client_of(tmp_path, access_log_sample=1.0) as client:
        generation = client.parts.generations.current
        assert generation is not None
        client.post("/search", {"query": "confidential words", "filter": {"kind": "classified"}})
        client.post("/search", {"query": "confidential words", "k": 0})
        monkeypatch.setattr(type(generation.engine), "search", lambda *_: 1 / 0)
        failed = client.post("/search", {"query": "confidential words"})
    text = stream.getvalue()
    assert "ZeroDivisionError" in text
    assert failed.headers["x-request-id"] in text
    assert text.count("/search") >= 4
    assert "confidential" not in text
    assert "classified" not in text


def quoting(text: str) -> None:
    try:
        raise KeyError(text)  # noqa: TRY301 - a cause that quotes, too
    except KeyError as error:
        raise ValueError(f"cannot tokenize {text!r}") from error


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("shown", [False, True])
def test_a_message_that_quotes_a_query_is_withheld_unless_queries_are_logged(
    form: LogFormat, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    make_registry(tmp_path)
    configure("info", form, stream, queries=shown)
    with client_of(tmp_path, access_log=False) as client:
        generation = client.parts.generations.current
        assert generation is not None
        monkeypatch.setattr(type(generation.encoder), "tokenize", lambda _, texts, *__: quoting(texts[0]))
        assert client.post("/search", {"query": "confidential words"}).status_code == 500
    text = stream.getvalue()
    assert all(word in text for word in ("unhandled_error", "ValueError", "KeyError", "in quoting", "direct cause"))
    assert ("confidential" in text, "message withheld" in text) == (shown, not shown)


def lost(text: str) -> None:
    """A task whose exception nobody asks for."""

    async def fails() -> None:
        quoting(text)

    async def begin() -> None:
        task = asyncio.create_task(fails())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(begin())


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("shown", [False, True])
def test_what_libraries_log_quotes_no_query_either(form: LogFormat, shown: bool) -> None:
    stream = io.StringIO()
    repeats = configure("info", form, stream, queries=shown)
    lost("confidential words")
    lost("confidential words")
    written = stream.getvalue()
    assert "Task exception was never retrieved" in written
    assert "in quoting" in written
    assert ("confidential" in written) == shown
    repeats.flush()
    assert "confidential" not in stream.getvalue()[len(written) :]


def test_there_is_no_access_log_where_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    make_registry(tmp_path)
    configure("info", "json", stream)
    with client_of(tmp_path, access_log=False, access_log_sample=1.0) as client:
        generation = client.parts.generations.current
        assert generation is not None
        monkeypatch.setattr(type(generation.engine), "search", lambda *_: 1 / 0)
        client.post("/search", {"query": "apple"})
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert "unhandled_error" in events
    assert "request" not in events


HOSTILE = 'one\ntwo\r\x1b[31mred\x00\x9b\u2028{"event": "forged"}'


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_ends_a_line_or_reaches_a_terminal(form: LogFormat) -> None:
    stream = io.StringIO()
    configure("info", form, stream)
    structlog.get_logger("here").info("happened", text=HOSTILE, several=[HOSTILE], by_name={"a": HOSTILE})
    logging.getLogger("elsewhere").warning(HOSTILE)
    written = stream.getvalue()
    assert len(written.splitlines()) == written.count("\n") == 2
    assert not set(written) & {"\r", "\x1b", "\x00", "\x9b", "\u2028"}
    if form == "json":
        ours, theirs = map(json.loads, written.splitlines())
        assert (ours["text"], ours["several"], theirs["event"]) == (HOSTILE, [HOSTILE], HOSTILE)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_message_of_an_exception_passes_for_a_line(form: LogFormat) -> None:
    stream = io.StringIO()
    configure("info", form, stream)
    try:
        raise ValueError(HOSTILE)  # noqa: TRY301 - in one place with what logs it
    except ValueError:
        structlog.get_logger("service.here").exception("failed")
    written = stream.getvalue()
    assert "\x1b" not in written
    if form == "json":
        assert HOSTILE in json.loads(written)["exception"]
    else:
        assert all(line.startswith("    ") for line in written.split("\n")[1:-1])


def test_a_long_text_is_cut() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    structlog.get_logger("here").info("happened", text="x" * 60_000)
    assert len(stream.getvalue()) < 5000


def test_a_line_says_when_it_was_logged_not_when_it_was_written() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    record = logging.LogRecord("elsewhere", logging.WARNING, "", 0, "late", None, None)
    record.created = 1_700_000_000.0
    logging.getLogger().handle(record)
    assert json.loads(stream.getvalue())["timestamp"] == "2023-11-14T22:13:20.000000Z"
