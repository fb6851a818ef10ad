"""Log lines: one an event, in either form, and never a query in them."""

from __future__ import annotations

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
    with client_of(tmp_path, access_log=1.0) as client:
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


def test_the_access_log_is_off_unless_asked_for(tmp_path: Path) -> None:
    stream = io.StringIO()
    make_registry(tmp_path)
    configure("info", "json", stream)
    with client_of(tmp_path) as client:
        client.post("/search", {"query": "apple"})
    assert '"event": "request"' not in stream.getvalue()
