"""A TCP proxy that spoils what goes through it: between a client and a real store, both on loopback."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_REQUEST = re.compile(rb"(?:^|\r\n\r\n|\n)(GET|PUT|POST|DELETE|HEAD) (\S+) HTTP/1\.1\r\n")
_QUIET_ROUNDS = 10


@dataclass
class Chaos:
    """How the proxy behaves; may be changed at any time.

    Attributes:
        delay_seconds: before each piece of an answer.
        reset_first: so many connections are reset as soon as they are opened.
        truncate_first: so many answers are cut off after ``truncate_bytes``.
        black_hole: nothing is passed on, and connections stay open.
        gone: connections are reset at once.
        requests: what clients asked for, as "GET /path".
        sent_bytes: from clients to the store.
        received_bytes: from the store to clients.
    """

    target: int
    port: int = 0
    delay_seconds: float = 0.0
    reset_first: int = 0
    truncate_first: int = 0
    truncate_bytes: int = 3000
    black_hole: bool = False
    gone: bool = False
    requests: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    received_bytes: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set, repr=False)

    def asked(self, method: str, part: str) -> int:
        """How many requests of this method had ``part`` in their path."""
        return sum(1 for request in self.requests if request.startswith(f"{method} ") and part in request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.gone or self.reset_first > 0:
            self.reset_first -= 1
            writer.transport.abort()
            return
        ends = {writer}
        self.open |= ends
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
            ends.add(back_writer)
            self.open |= ends
            pumps = [asyncio.create_task(self._up(reader, back_writer)), asyncio.create_task(self._down(back_reader, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the store is gone
        finally:
            for one in ends:
                one.transport.abort()
                with suppress(OSError):
                    await one.wait_closed()
            self.open -= ends

    async def stop(self) -> None:
        """End what is open by cutting it off: asyncio's streams complain when a task of theirs is cancelled."""
        self.black_hole = False
        quiet = 0  # rounds; one that was accepted at the last moment gets its task a few rounds later
        while quiet < _QUIET_ROUNDS:
            for one in self.open:
                one.transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            quiet = 0 if others else quiet + 1
            await (asyncio.wait(others, timeout=0.05) if others else asyncio.sleep(0))

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                self.requests += [f"{method.decode()} {path.decode()}" for method, path in _REQUEST.findall(piece)]
                self.sent_bytes += len(piece)
                while self.black_hole:  # noqa: ASYNC110 - a test sets it from another thread
                    await asyncio.sleep(0.01)
                writer.write(piece)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(OSError):
            while piece := await reader.read(1 << 14):
                while self.black_hole:  # noqa: ASYNC110 - a test sets it from another thread
                    await asyncio.sleep(0.01)
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                passed += len(piece)
                if self.truncate_first > 0 and passed > self.truncate_bytes:
                    self.truncate_first -= 1
                    writer.write(piece[: max(0, len(piece) - (passed - self.truncate_bytes))])
                    await writer.drain()
                    return
                self.received_bytes += len(piece)
                writer.write(piece)
                await writer.drain()


@contextmanager
def chaos_before(target: int) -> Iterator[Chaos]:
    """A proxy before the server at port ``target``, in a thread of its own."""
    chaos = Chaos(target)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(chaos.serve, "127.0.0.1", 0)
        chaos.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stopping.wait()
        loop.remove_reader(server.sockets[0])  # asyncio forgets, unclosed, what was accepted a moment before its server closes
        await chaos.stop()
        server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="chaos")
    thread.start()
    assert ready.wait(10)
    try:
        yield chaos
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
