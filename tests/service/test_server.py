"""A real server on loopback, in this process: draining, hang-ups and oversized bodies as sockets see them."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import assert_problem, composed, hooked, make_registry

from service.limits import Outcome
from service.parts import Parts
from service.server import DrainingServer, listening
from service.settings import Settings

pytestmark = pytest.mark.slow
WAIT_SECONDS = 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


class Gate:
    """Holds a worker thread in the encoder until it is opened."""

    def __init__(self, parts: Parts) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        parts.generations._slot.generation = hooked(parts.generations.current, self)

    def __call__(self, stage: str) -> None:
        if stage == "encode":
            self.reached.set()
            assert self.open.wait(WAIT_SECONDS)

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, WAIT_SECONDS)


class Running:
    """A server, where it listens, and a client of it."""

    def __init__(self, server: DrainingServer, parts: Parts, url: str, client: httpx.AsyncClient) -> None:
        self.server, self.parts, self.url, self.client = server, parts, url, client

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes, read until the server closes."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        writer.close()
        return answer

    async def status(self, request: bytes) -> int:
        """Send bytes, read what the server answers first."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), WAIT_SECONDS)
        writer.close()
        return int(line.split()[1])


def run(registry: Path, test: Callable[[Running], Awaitable[None]], **settings: Any) -> None:
    """Serve while ``test`` runs, then stop as SIGTERM does, at once unless the settings say otherwise."""

    async def main(parts: Parts) -> None:
        with listening(parts.settings) as listener:
            server = DrainingServer(parts)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            url = "http://{}:{}".format(*listener.getsockname())
            async with httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS) as client:
                await test(Running(server, parts, url, client))
            if not serving.done():
                server.handle_exit(signal.SIGTERM, None)
            await asyncio.wait_for(serving, WAIT_SECONDS)

    with composed(registry, port=0, **{"drain_min_seconds": 0, **settings}) as parts:
        asyncio.run(main(parts))


class Upload:
    """A request whose body is begun and not complete."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def begin(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._running.address)
        self._writer.write(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n{")
        while not self._running.server.server_state.tasks:  # noqa: ASYNC110 - uvicorn has a set, not an event
            await asyncio.sleep(0.01)

    def finish(self) -> None:
        self._writer.write(b'"query": "apple"}')

    async def answer(self) -> bytes:
        answer = await asyncio.wait_for(self._reader.read(), WAIT_SECONDS)
        self._writer.close()
        return answer


def test_sigterm_refuses_new_work_and_finishes_what_was_begun(registry: Path) -> None:
    async def drain(running: Running) -> None:
        gate = Gate(running.parts)
        begun = asyncio.create_task(running.client.post("/search", json={"query": "apple"}))
        await gate.until_reached()
        running.server.handle_exit(signal.SIGTERM, None)
        assert_problem(await running.client.get("/readyz"), 503, "draining")
        refused = await running.client.post("/search", json={"query": "apple"})
        assert_problem(refused, 503, "draining")
        assert refused.headers["connection"] == "close"
        assert (await running.client.get("/livez")).status_code == 200
        gate.open.set()
        answer = await begun
        assert (answer.status_code, len(answer.json()["hits"])) == (200, 10)

    run(registry, drain)


def test_the_drain_ends_when_its_time_is_over(registry: Path) -> None:
    async def overstay(running: Running) -> None:
        gate = Gate(running.parts)
        begun = asyncio.create_task(running.client.post("/search", json={"query": "apple"}))
        await gate.until_reached()
        running.server.handle_exit(signal.SIGTERM, None)
        while not running.server.should_exit:  # noqa: ASYNC110 - uvicorn has a flag, not an event
            await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.gather(begun, return_exceptions=True)

    run(registry, overstay, drain_seconds=0.2)


def test_a_second_signal_ends_the_wait(registry: Path) -> None:
    async def insist(running: Running) -> None:
        gate = Gate(running.parts)
        begun = asyncio.create_task(running.client.post("/search", json={"query": "apple"}))
        await gate.until_reached()
        running.server.handle_exit(signal.SIGINT, None)
        assert not running.server.should_exit
        running.server.handle_exit(signal.SIGINT, None)
        assert running.server.should_exit
        gate.open.set()
        await asyncio.gather(begun, return_exceptions=True)

    run(registry, insist)


def assert_draining(answer: bytes) -> None:
    head, _, problem = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(problem)["code"] == "draining"


def test_a_request_that_is_still_being_sent_is_waited_for(registry: Path) -> None:
    async def finish_late(running: Running) -> None:
        upload = Upload(running)
        await upload.begin()
        running.server.handle_exit(signal.SIGTERM, None)
        assert not await running.server.on_tick(1)
        upload.finish()
        assert_draining(await upload.answer())

    run(registry, finish_late)


def test_a_request_that_is_cut_off_is_told_why(registry: Path) -> None:
    async def never_finish(running: Running) -> None:
        upload = Upload(running)
        await upload.begin()
        running.server.handle_exit(signal.SIGTERM, None)
        assert_draining(await upload.answer())

    run(registry, never_finish, drain_seconds=0.2)


def test_balancers_have_time_to_hear_of_the_end(registry: Path) -> None:
    async def stop(running: Running) -> None:
        running.server.handle_exit(signal.SIGTERM, None)
        assert not await running.server.on_tick(1)
        assert_problem(await running.client.get("/readyz"), 503, "draining")
        assert not await running.server.on_tick(1)

    run(registry, stop, drain_min_seconds=20)


def test_nothing_in_flight_ends_once_balancers_have_heard(registry: Path) -> None:
    async def stop(running: Running) -> None:
        begun = time.monotonic()
        running.server.handle_exit(signal.SIGTERM, None)
        while not running.server.should_exit:  # noqa: ASYNC110 - uvicorn has a flag, not an event
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun >= 0.3

    run(registry, stop, drain_min_seconds=0.3)


def test_ctrl_c_does_not_wait_for_balancers(registry: Path) -> None:
    async def interrupt(running: Running) -> None:
        running.server.handle_exit(signal.SIGINT, None)
        assert await running.server.on_tick(1)

    run(registry, interrupt, drain_min_seconds=20)


def test_a_client_that_hangs_up_is_noticed(registry: Path) -> None:
    async def hang_up(running: Running) -> None:
        gate = Gate(running.parts)
        _, writer = await asyncio.open_connection(*running.address)
        body = json.dumps({"query": "apple"}).encode()
        writer.write(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await gate.until_reached()
        writer.close()
        await writer.wait_closed()
        await running.client.get("/livez")
        gate.open.set()
        value = running.parts.metrics.registry.get_sample_value
        while running.parts.limiter.in_flight:  # noqa: ASYNC110 - the limiter is a count, not an event
            await asyncio.sleep(0.01)
        assert value("scalingnote_dropped_total", {"cause": "gone", "stage": "search"}) == 1

    run(registry, hang_up)


@pytest.mark.parametrize("size", [100_000, 1_000_000, 10_000_000])
def test_a_body_that_is_too_long_is_refused_and_the_answer_arrives(registry: Path, size: int) -> None:
    async def oversize(running: Running) -> None:
        body = json.dumps({"query": "a" * size}).encode()
        headers = b"POST /search HTTP/1.1\r\nHost: x\r\n"
        with_length = headers + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        chunked = headers + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        for request in (with_length, chunked):
            head, _, problem = (await running.raw(request)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in head
            assert json.loads(problem)["code"] == "body_too_large"

    run(registry, oversize)


async def send_without_end(address: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        while True:
            writer.write(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
            await writer.drain()
    finally:
        writer.close()


def test_a_body_far_too_long_is_cut_off_and_nobody_else_is_hurt(registry: Path) -> None:
    async def flood(running: Running) -> None:
        with pytest.raises(ConnectionError):
            await send_without_end(running.address)
        assert (await running.client.post("/search", json={"query": "apple"})).status_code == 200

    run(registry, flood)


def test_a_client_that_sends_byte_by_byte_holds_up_nobody(registry: Path) -> None:
    async def dribble(running: Running) -> None:
        answer = asyncio.create_task(running.raw(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"))
        for _ in range(5):
            assert (await running.client.post("/search", json={"query": "apple"})).status_code == 200
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert running.parts.limiter.in_flight == 0

    run(registry, dribble, default_timeout_ms=300, max_timeout_ms=300)


def test_a_body_is_waited_for_no_longer_than_a_budget_in_a_header_allows(registry: Path) -> None:
    async def dribble(running: Running) -> None:
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRequest-Timeout-Ms: 100\r\nContent-Length: 20\r\n\r\n{"
        began = time.monotonic()
        answer = await running.raw(head)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert 0.09 < time.monotonic() - began < 3
        assert b"the body was not complete within the budget of 100 ms" in answer
        value = running.parts.metrics.registry.get_sample_value
        assert value("scalingnote_dropped_total", {"cause": "late", "stage": "tokenize"}) == 1
        assert value("scalingnote_over_budget_total", {"route": "/search"}) == 1

    run(registry, dribble)


def test_a_budget_in_a_header_that_the_wait_outlasts_is_refused_before_the_body_is_there(registry: Path) -> None:
    async def crowd(running: Running) -> None:
        limiter, body = running.parts.limiter, b'{"query": "apple"}'
        for _ in range(20):
            limiter.acquire().release(10.0, 0.0, Outcome.DONE)
        tokens = [limiter.acquire() for _ in range(10)]  # 100 ms of work for one thread
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n%b\r\n"
        assert await running.status(head % b"Request-Timeout-Ms: 50\r\n") == 429
        for header, status in ((b"", 200), (b"Request-Timeout-Ms: 4000\r\n", 200), (b"Request-Timeout-Ms: soon\r\n", 422)):
            assert await running.status(head % header + body) == status
        assert limiter.in_flight == len(tokens)
        for token in tokens:
            token.release(10.0, 0.0, Outcome.DONE)

    run(registry, crowd, threads=1, default_timeout_ms=5_000, max_timeout_ms=5_000, max_concurrency=20)


def test_what_is_not_http_is_refused_by_closing(registry: Path) -> None:
    async def garble(running: Running) -> None:
        assert (await running.raw(b"\x16\x03\x01 what\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await running.client.get("/livez")).status_code == 200

    run(registry, garble)


def test_many_at_once_are_answered_or_refused_never_lost(registry: Path) -> None:
    async def crowd(running: Running) -> None:
        requests = [running.client.post("/search", json={"query": "apple", "k": 1}) for _ in range(60)]
        answers = await asyncio.gather(*requests)
        codes = [answer.status_code for answer in answers]
        assert set(codes) <= {200, 429}
        assert codes.count(200) >= 4
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
        assert running.parts.limiter.in_flight == 0
        shed = running.parts.metrics.registry.get_sample_value("scalingnote_shed_total", {"cause": "overloaded"})
        assert shed == codes.count(429)

    run(registry, crowd, max_concurrency=4)


def test_a_taken_port_is_named(registry: Path) -> None:
    with listening(Settings(registry=registry, port=0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(Exception, match=rf"cannot listen on 127.0.0.1:{port} .*--port or SCALINGNOTE_PORT"),
            listening(Settings(registry=registry, port=port)),
        ):
            pytest.fail("two listen on one port")
