"""A connection as a real socket sees it: what its requests' scopes say, and when it is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from service.connections import EXTENSION, Connection
from service.walk import Caller

WAIT_SECONDS = 10


class Holding:
    """An application that tells of each caller and answers when it is let."""

    def __init__(self) -> None:
        self.callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.callers.put_nowait(scope["extensions"][EXTENSION])
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def caller(self) -> Caller:
        return await asyncio.wait_for(self.callers.get(), WAIT_SECONDS)


def run(test: Callable[[Holding, int], Awaitable[None]]) -> None:
    """Serve ``Holding`` while ``test`` runs, which gets it and the port."""

    async def main() -> None:
        app = Holding()
        config = uvicorn.Config(app, http=Connection, log_config=None, lifespan="off", loop="uvloop")
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await_end = asyncio.create_task(server.serve(sockets=[listener]))
            await test(app, listener.getsockname()[1])
            app.answer.set()
            server.should_exit = True
            await asyncio.wait_for(await_end, WAIT_SECONDS)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, not an event
            await asyncio.sleep(0.005)


def test_every_request_of_a_connection_says_whether_the_client_is_there() -> None:
    async def ask_twice(app: Holding, port: int) -> None:
        app.answer.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
            caller = await app.caller()
            assert not caller.gone
        writer.close()
        await until(lambda: caller.gone)

    run(ask_twice)


@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_leaves_is_gone_while_its_request_is_worked_on(half: bool) -> None:
    async def leave(app: Holding, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        _, stays = await asyncio.open_connection("127.0.0.1", port)
        for each in (writer, stays):
            each.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await each.drain()
        first, second = await app.caller(), await app.caller()
        writer.write_eof() if half else writer.close()
        await until(lambda: first.gone or second.gone)
        assert not (first.gone and second.gone)
        writer.close()
        stays.close()

    run(leave)
