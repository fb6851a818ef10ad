"""As many connections as may be open, and requests on them that never arrive whole: who makes room for whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import live
import pytest
from serving import make_registry
from sockets import GET, HEAD, OK, Running, run, until

HALF = HEAD + b"Content-Length: 100\r\n\r\nhalf"
LIMIT = 12


def test_a_body_that_is_on_its_way_makes_room_and_is_told() -> None:
    async def crowd(running: Running) -> None:
        first, second = await running.client(HALF), await running.client(HALF)
        await until(lambda: len(running.connections.bodies) == 2)
        new = await running.client(GET)
        assert (await new.head()).startswith(OK)
        assert await first.problem() == (b"503", "too_many_connections")
        assert (await running.app.caller()).gone
        await second.send(b"x" * 96)
        assert (await second.head()).startswith(OK)
        assert (running.closed("refused"), running.closed("crowded")) == (1, 0)

    run(crowd, limit=2)


@pytest.mark.parametrize("body_first", [False, True])
def test_the_one_on_its_way_for_longest_goes_first_be_it_in_the_headers_or_the_body(body_first: bool) -> None:
    async def crowd(running: Running) -> None:
        pieces = (HALF, GET[:9]) if body_first else (GET[:9], HALF)
        first = await running.client(pieces[0])
        running.clock.advance_ms(1000)
        second = await running.client(pieces[1])
        assert (await (await running.client(GET)).head()).startswith(OK)
        assert (await first.rest()).startswith(b"HTTP/1.1 503 ") is body_first
        await second.send(GET[9:] if body_first else b"x" * 96)
        assert (await second.head()).startswith(OK)

    run(crowd, limit=2)


def test_what_idles_makes_room_before_any_body() -> None:
    async def crowd(running: Running) -> None:
        sending = await running.client(HALF)
        idle = await running.client(GET)
        assert (await idle.head()).startswith(OK)
        assert (await (await running.client(GET)).head()).startswith(OK)
        assert await idle.rest() == b""
        await sending.send(b"x" * 96)
        assert (await sending.head()).startswith(OK)

    run(crowd, limit=2)


def test_a_body_behind_a_request_at_work_is_no_reason_to_end_that() -> None:
    async def crowd(running: Running) -> None:
        running.app.answer.clear()
        works = await running.client(GET + HALF)
        caller = await running.app.caller()
        assert await (await running.client(GET)).problem() == (b"503", "too_many_connections")
        assert not caller.gone
        running.app.answer.set()
        assert (await works.head()).startswith(OK)
        await until(lambda: len(running.connections.bodies) == 1)  # now its turn has come
        assert (await (await running.client(GET)).head()).startswith(OK)
        assert await works.problem() == (b"503", "too_many_connections")

    run(crowd, limit=1)


def test_a_body_that_is_whole_is_at_work() -> None:
    async def crowd(running: Running) -> None:
        running.app.answer.clear()
        works = await running.client(HALF, b"x" * 96)
        await running.app.caller()
        assert not running.connections.bodies
        assert await (await running.client(GET)).problem() == (b"503", "too_many_connections")
        running.app.answer.set()
        assert (await works.head()).startswith(OK)

    run(crowd, limit=1)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder: Path = tmp_path_factory.mktemp("crowd")
    make_registry(folder / "registry")
    service = live.start(folder, folder / "registry", "--max-connections", str(LIMIT))
    try:
        live.until(service, service.ready, "ready")
        yield service
    finally:
        service.stop()


@pytest.mark.slow
def test_probes_and_scrapes_are_answered_whatever_half_sent_bodies_there_are(crowded: live.Live) -> None:
    half = b'POST /search HTTP/1.1\r\nHost: x\r\nRequest-Timeout-Ms: 9000\r\nContent-Length: 100\r\n\r\n{"query":'
    with ExitStack() as held:
        for number in range(3 * LIMIT):
            client = held.enter_context(socket.create_connection(("127.0.0.1", crowded.port)))
            client.sendall(half)
            if number >= LIMIT:
                assert [crowded.get(path)[0] for path in ("/livez", "/readyz")] == [200, 200]
                assert crowded.metrics()["connections"] <= LIMIT + 1
