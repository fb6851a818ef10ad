"""Clients' connections: uvicorn's protocol, and what uvicorn does not do about clients that are hostile or unlucky.

uvicorn starts its only timer when the first answer is out, takes headers without end, counts nothing and waits for ever for a
client that does not read. Here each connection that owes something (a request's headers or body, or to take its answer) stands
in a line with the time since when; a sweep now and then looks at the fronts of the lines, so that no request sets a timer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from service.deadline import Clock
from service.door import Door, OpenDoor
from service.eager import begin
from service.errors import CrowdedError, HeaderTimeoutError, MalformedRequestError, ServiceError
from service.incoming import Incoming, Line
from service.memory import give_back
from service.metrics import Metrics
from service.receipt import Receipt
from service.refusal import refusal
from service.scopes import ARRIVED, EXTENSION, REPLY
from service.walk import Caller

_CLOSE = (b"connection", b"close")
_RECEIPT_BYTES = 64 << 20
_MOST_AT_ONCE = 256
"""Closed in one sweep: a crowd whose time is over together must not hold the event loop."""


class Connections:
    """Every open connection of one server, and who has owed something for longest. Used on the event loop only."""

    def __init__(
        self,
        limit: int,
        timeout_seconds: float,
        metrics: Metrics,
        clock: Clock,
        door: Door | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Start empty.

        Args:
            limit: connections that may be open.
            timeout_seconds: longest wait for a request's headers, and for a client that takes nothing of its answer.
            metrics: hears of every connection.
            clock: monotonic seconds.
            door: what is asked before an application is.
            receipt: bounds bodies that are not complete.
        """
        self._limit = limit
        self.door = door or OpenDoor()
        self.receipt = receipt or Receipt(_RECEIPT_BYTES, _RECEIPT_BYTES)
        self._timeout_seconds = timeout_seconds
        self._metrics = metrics
        self.clock = clock
        self._open = 0
        self.receiving: Line = OrderedDict()
        self.bodies: Line = OrderedDict()
        self.idle: Line = OrderedDict()
        self.unread: Line = OrderedDict()
        metrics.connection_limit.set(limit)

    def protocol(self) -> type[Connection]:
        """What uvicorn makes one of for each connection."""
        connections = self

        class Counted(Connection):
            def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
                super().__init__(connections, config, server_state, app_state, _loop)

        return Counted

    def opened(self, connection: Connection) -> None:
        """Let a connection in, if need be in the place of one that is not at work; refuse it if all are."""
        self._open += 1
        self._metrics.connections.set(self._open)
        if self._open > self._limit and not self._made_room():
            connection.refuse(CrowdedError("each connection is at work; try another instance, or retry in a second"), "refused")
            return
        self.wait(self.receiving, connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open -= 1
        self._metrics.connections.set(self._open)
        self.go_on(connection)

    def counted(self, cause: str) -> None:
        """Count a connection that is closed on its client."""
        self._metrics.closes.labels(cause).inc()

    def wait(self, line: Line, connection: Connection) -> None:
        """Put a connection at the end of a line, out of any other; in that line it keeps its place."""
        if connection.line is not line:
            self.go_on(connection)
            connection.line = line
            line[connection] = self.clock()

    def go_on(self, connection: Connection) -> None:
        """It owes nothing any more."""
        if connection.line is not None:
            del connection.line[connection]
            connection.line = None

    def sweep(self) -> None:
        """Close those that have owed something for too long, and give memory back that bodies have left."""
        if self.receipt.ebbed():
            asyncio.get_running_loop().run_in_executor(None, give_back)
        for connection in self._overdue(self.receiving):
            connection.late()
        for connection in self._overdue(self.unread):
            if connection.takes():
                self.go_on(connection)
                self.wait(self.unread, connection)
            else:
                self.counted("unread")
                connection.leave()

    def _made_room(self) -> bool:
        """Close the one idle for longest, else the one whose request has been on its way for longest: that may never end."""
        victim = next(iter(self.idle), None)
        if victim is None:
            fronts = [next(iter(line.items())) for line in (self.receiving, self.bodies) if line]
            victim = min(fronts, key=lambda front: front[1], default=(None, 0.0))[0]
        if victim is None:
            return False
        if victim.line is self.bodies:
            victim.refuse(CrowdedError("other connections need the place of this slow body; send it at once"), "refused")
        else:
            self.counted("crowded")
            victim.leave()
        return True

    def _overdue(self, line: Line) -> list[Connection]:
        oldest = self.clock() - self._timeout_seconds
        return [connection for connection, since in islice(line.items(), _MOST_AT_ONCE) if since <= oldest]


class Connection(Incoming):
    """One connection: bounded in time and size, and known to every request on it.

    A client that closes only its sending half counts as gone: at a socket it looks the same as one that left.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(connections, config, server_state, app_state, _loop)
        self._caller = Caller()
        self._extensions: Any = {
            EXTENSION: self._caller,
            ARRIVED: lambda: self._part is None,
            REPLY: self.reply,
        }  # uvicorn's type allows dictionaries only
        self._active: RequestResponseCycle | None = None  # uvicorn's own ``cycle`` is the last one that came in
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop()
        self._connections.closed(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn forgets it after a reset
        # What leads back here: the collector would have to find it.
        self.transport = self.flow = self.scope = self._extensions = self._refusal = None  # type: ignore[assignment]

    def eof_received(self) -> None:
        self._caller.gone = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:  # noqa: ARG002 - the app is ours
        """Begin to work on a request, unless it is turned away: not where its answer could not be sent at once."""
        self._active = cycle
        if not self.flow.write_paused and self._connections.door.turns_away(cycle.scope):
            return
        if self._feeding:
            self._due = cycle
        else:
            self._begin(cycle)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        work: Coroutine[Any, Any, None] | None = cycle.run_asgi(self.app)
        arrived = self._part is None and not cycle.more_body
        if work is not None and arrived and self._connections.door.begins_at_once(cycle.scope):
            work = begin(work)
        if work is not None:
            task = self.loop.create_task(work)
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answered()
        self._settle()
        if self._part is None and not self._working():  # nothing refers to the last request any more: most connections are idle
            self.cycle = self._active = self.scope = self.headers = None  # type: ignore[assignment]  # as uvicorn begins

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    def timeout_keep_alive_handler(self) -> None:
        self._connections.counted("keep_alive")
        self.leave()

    def reply(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send a whole answer, whose headers have its length, at once; False where it must go the way of ASGI.

        That way is two writes, each of which wakes the client, and a look at each header for what ours cannot have.
        """
        cycle = self._active
        if cycle is None or cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        closing = _CLOSE in headers
        cycle.keep_alive = cycle.keep_alive and not closing
        shown = [*cycle.default_headers, *headers]
        if not cycle.keep_alive and not closing:
            shown.append(_CLOSE)
        head = b"".join([b"%b: %b\r\n" % pair for pair in shown])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def late(self) -> None:
        """The headers, or the rest of a body that was answered long ago, did not come in time."""
        if self._part is None:  # nothing came at all: nobody reads an answer
            self._connections.counted("header_timeout")
            self.leave()
        else:
            self.refuse(HeaderTimeoutError("the request did not arrive in time; send it at once"), "header_timeout")

    def takes(self) -> bool:
        """Whether the client has taken anything of its answer since this was asked last."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return 0 < self._unsent != before

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gave up."""
        malformed = MalformedRequestError(f"{msg} Speak HTTP/1.1, without TLS."), "malformed"
        self.refuse(*(self._refusal or malformed))

    def refuse(self, error: ServiceError, cause: str) -> None:
        """Close, with an answer unless it would be taken for that of an earlier request."""
        self._connections.counted(cause)
        answers = self._may_answer()
        self._drop()
        if answers:
            self.transport.write(refusal(error))
        self.transport.close()
        self._settle()

    def leave(self) -> None:
        """Close; what the client has not taken by now it will not get, since a close would wait for it for ever."""
        self._drop()
        self._connections.go_on(self)
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def _settle(self) -> None:
        """Stand in the line of what is owed, if anything is."""
        lines = self._connections
        if self.transport.is_closing() or self.flow.write_paused:
            lines.wait(lines.unread, self)
        elif self._working():
            lines.wait(lines.bodies, self) if self._part == "body" and self._may_answer() else lines.go_on(self)
        else:
            lines.wait(lines.idle if self._part is None else lines.receiving, self)

    def _working(self) -> bool:
        return self._active is not None and not self._active.response_complete

    def _may_answer(self) -> bool:
        """Whether the message that is being received is the next to be answered, and nothing of an answer is out."""
        if self._part == "body":
            return self._working() and self._active is self.cycle and not self.cycle.response_started
        return not self._working()

    def _drop(self) -> None:
        """Let what works for this client know that nobody is left; uvicorn tells the last request only."""
        self._let_go()
        self._caller.gone = True
        self.pipeline.clear()
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
