"""A server of ours on a real socket, with an application and clients that tests hold in their hands."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry

from service.connections import Connections
from service.cores import ThreadPlan
from service.metrics import Metrics
from service.scopes import BEGAN, EXTENSION, REPLY
from service.settings import Settings
from service.walk import Caller

WAIT_SECONDS = 10
TIMEOUT_SECONDS = 5.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
OK = b"HTTP/1.1 204 "


class Holding:
    """An application that reads the body, tells of each caller, and answers when it is let."""

    def __init__(self) -> None:
        self.callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.answer = asyncio.Event()
        self.answer.set()
        self.size = 0
        self.body = bytearray()  # of the last request
        self.began: list[float] = []
        self.reads_body = True
        self.messages = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.append(scope[BEGAN])
        more, self.body = self.reads_body, bytearray()
        while more:
            self.messages += 1
            message = await receive()
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        self.callers.put_nowait(scope["extensions"][EXTENSION])
        await self.answer.wait()
        headers = [(b"content-length", b"%d" % self.size)] if self.size else []
        await send({"type": "http.response.start", "status": 200 if self.size else 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * self.size})

    async def caller(self) -> Caller:
        return await asyncio.wait_for(self.callers.get(), WAIT_SECONDS)


class Client:
    """One socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.005)  # each piece is a read of its own

    async def head(self) -> bytes:
        return await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), WAIT_SECONDS)

    async def take(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            return await asyncio.wait_for(self._reader.read(), WAIT_SECONDS)
        except ConnectionError:
            return b"reset"

    async def problem(self) -> tuple[bytes, str]:
        """The status line's status and the code of an answer after which the server closes."""
        head, _, body = (await self.rest()).partition(b"\r\n\r\n")
        lowered = head.lower()
        assert b"connection: close" in lowered
        assert b"content-type: application/problem+json" in lowered
        assert b"content-length: %d\r\n" % len(body) in lowered
        problem = json.loads(body)
        assert problem["type"] == f"urn:scalingnote:problem:{problem['code']}"
        assert f"x-request-id: {problem['request_id']}".encode() in lowered
        assert head.split()[1] == str(problem["status"]).encode()
        return head.split()[1], problem["code"]


class Running:
    """A server of ``Holding`` with its connections, under a clock that tests move."""

    def __init__(self, limit: int) -> None:
        self.app = Holding()
        self.clock = ManualClock()
        self.metrics = Metrics(
            CollectorRegistry(), Settings(registry=Path("registry")), ThreadPlan(cores=1, workers=1, encoder=1)
        )
        self.refuses = self.at_once = False
        self.connections = Connections(limit, TIMEOUT_SECONDS, self.metrics, self.clock, self)
        http = self.connections.protocol()
        self.config = uvicorn.Config(self.app, http=http, log_config=None, access_log=False, lifespan="off", ws="none")
        self.server = uvicorn.Server(self.config)
        self.port = 0
        self.clients: list[Client] = []

    def turns_away(self, scope: Any) -> bool:
        return self.refuses and scope["extensions"][REPLY](429, [(b"content-length", b"0")], b"")

    def begins_at_once(self, scope: Any) -> bool:
        return self.at_once

    async def client(self, *pieces: bytes) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        await self.clients[-1].send(*pieces)
        return self.clients[-1]

    @property
    def open(self) -> int:
        return int(self.metrics.registry.get_sample_value("scalingnote_connections") or 0)

    def closed(self, cause: str) -> int:
        return int(self.metrics.registry.get_sample_value("scalingnote_connections_closed_total", {"cause": cause}) or 0)

    def pass_seconds(self, seconds: float) -> None:
        self.clock.advance_ms(seconds * 1000)
        self.connections.sweep()


def run(test: Callable[[Running], Awaitable[None]], limit: int = 100) -> None:
    """Serve while ``test`` runs; afterwards no connection is left."""

    async def main() -> None:
        running = Running(limit)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            running.port = listener.getsockname()[1]
            serving = asyncio.create_task(running.server.serve(sockets=[listener]))
            try:
                await test(running)
            finally:
                running.app.answer.set()
                for client in running.clients:
                    client.writer.close()
                running.server.should_exit = True
                await asyncio.wait_for(serving, WAIT_SECONDS)
        assert running.open == 0
        assert not running.connections.idle
        assert not running.connections.receiving
        assert not running.connections.bodies
        assert not running.connections.unread

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, not an event
            await asyncio.sleep(0.005)
