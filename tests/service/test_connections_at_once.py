"""Connections on which requests are turned away, or answered, before any work, as a real socket sees them."""

from __future__ import annotations

import pytest
from sockets import GET, HEAD, OK, TIMEOUT_SECONDS, Running, run, until


def test_who_is_turned_away_is_told_at_once_and_may_ask_again_on_the_same_connection() -> None:
    async def ask(running: Running) -> None:
        running.refuses = True
        client = await running.client(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.head()).startswith(b"HTTP/1.1 429 ")
        await client.send(HEAD + b"Content-Length: 3\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 429 ")  # before its body is there
        await client.send(b"a", b"bc")
        running.refuses = False
        await client.send(GET)
        assert (await client.head()).startswith(OK)
        assert running.app.callers.qsize() == 1
        assert not running.server.server_state.tasks

    run(ask)


def test_who_is_turned_away_waits_for_the_answers_before_it() -> None:
    async def ask(running: Running) -> None:
        running.app.answer.clear()
        client = await running.client(GET)
        await running.app.caller()
        running.refuses = True
        await client.send(GET * 3)
        running.app.answer.set()
        assert (await client.head()).startswith(OK)
        for _ in range(3):
            assert (await client.head()).startswith(b"HTTP/1.1 429 ")

    run(ask)


def test_who_is_turned_away_owes_the_rest_of_its_body_in_time() -> None:
    async def ask(running: Running) -> None:
        running.refuses = True
        client = await running.client(HEAD + b"Content-Length: 3\r\n\r\na")
        await client.head()
        running.pass_seconds(TIMEOUT_SECONDS)
        assert await client.rest() == b""
        assert running.closed("header_timeout") == 1

    run(ask)


def test_what_begins_at_once_is_answered_in_order_and_told_of_its_client() -> None:
    async def ask(running: Running) -> None:
        running.at_once = True
        client = await running.client(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.head()).startswith(OK)
        assert not running.server.server_state.tasks  # it never waited
        await client.send(HEAD + b"Content-Length: 3\r\n\r\n", b"abc" + GET + GET)
        for _ in range(3):
            assert (await client.head()).startswith(OK)
        running.app.answer.clear()
        await client.send(GET)
        while running.app.callers.qsize():
            caller = await running.app.caller()
        client.writer.close()
        await until(lambda: caller.gone)

    run(ask)


def test_what_fails_at_once_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(running: Running) -> None:
        running.at_once = True
        running.app.callers = None  # type: ignore[assignment]
        client = await running.client(GET)
        assert (await client.head()).startswith(b"HTTP/1.1 500 ")

    run(ask)
    assert "Exception in ASGI application" in caplog.text
