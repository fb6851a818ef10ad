"""uvicorn as this service needs it: it drains before it stops, and says who has the port."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

import uvicorn

from service.api.status import LOADING
from service.app import create_app
from service.connections import Connections
from service.descriptors import connection_limit
from service.errors import AddressInUseError
from service.loop_lag import LoopLag
from service.parts import Parts
from service.receipt import Receipt
from service.repeats import Repeats
from service.settings import Settings, flag, variable
from service.shedding import Shedding

_BACKLOG = 2048
_WRITE_SECONDS = 1
"""For answers that are ready to be written out, after the drain."""
_BODIES = 64
"""Of the longest, that may be on their way at a time unless a setting says how many bytes."""
_QUIET_SECONDS = 5.0
"""Without a refusal, until an overload is over."""


class _Beside(ThreadPoolExecutor):
    """Threads for what would hold up the event loop, such as a look at the registry.

    Its end waits for none of them: asyncio would without a limit, and so a disk that stands still would keep the process for
    ever. ``service.main`` waits a moment, and tells who is left.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as the library's
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class DrainingServer(uvicorn.Server):
    """uvicorn that is told to stop in two steps: refuse new work, then, once what was in flight is done, close.

    The listener stays open meanwhile, and long enough for balancers to hear of it from /readyz. Ctrl-C has no balancer to
    wait for. A second signal ends the wait.
    """

    def __init__(self, parts: Parts, repeats: Repeats | None = None) -> None:
        settings = parts.settings
        self._repeats = repeats
        self._shedding = Shedding(parts.clock, _QUIET_SECONDS)
        app = create_app(parts)
        self._connections = Connections(
            connection_limit(settings.max_connections),
            settings.header_timeout_seconds,
            parts.metrics,
            parts.clock,
            app,
            _receipt(settings),
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=self._connections.protocol(),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="off",
                timeout_keep_alive=settings.keep_alive_seconds,
                timeout_graceful_shutdown=_WRITE_SECONDS,
            )
        )
        parts.metrics.open_requests.set_function(lambda: len(self.server_state.tasks))
        self._parts = parts
        self._stop_after = self._stop_by = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_Beside(thread_name_prefix="beside"))
        loop.add_signal_handler(signal.SIGHUP, self._parts.follower.poke)
        LoopLag(self._lagged).start(loop)

    def _lagged(self, seconds: float) -> None:
        self._parts.metrics.lagged(seconds, swapping=self._parts.generations.state in LOADING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """On SIGTERM or SIGINT. Not uvicorn's own: that one dies of the signal again after a clean end."""
        settings, now = self._parts.settings, self._parts.clock()
        if self._parts.limiter.draining:
            self.should_exit = self.force_exit = True
        self._parts.limiter.drain()
        self._stop_after = now if sig == signal.SIGINT else now + settings.drain_min_seconds
        self._stop_by = now + settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        self._connections.sweep()
        self._shedding.observe(self._parts.metrics.refusals())
        self._parts.history.tick()
        if self._repeats is not None:
            self._repeats.tick()
        if self._parts.limiter.draining:
            self._parts.generations.drain()
            now = self._parts.clock()
            self.should_exit |= now >= self._stop_by or (now >= self._stop_after and self._idle())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._shedding.end()
        await super().shutdown(sockets)

    def _idle(self) -> bool:
        """No request is being received or answered, and none that was given up still has its worker thread."""
        return not self.server_state.tasks and self._parts.limiter.in_flight == 0


def _receipt(settings: Settings) -> Receipt:
    longest = max(settings.max_body_bytes, settings.max_batch_body_bytes)
    asked = settings.max_receipt_bytes
    return Receipt(_BODIES * longest if asked is None else asked, longest)


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """A bound and listening socket.

    Raises:
        AddressInUseError: the address is taken, not ours, or not an address.
    """
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a host name that DNS could carry
        reason = error.strerror if isinstance(error, OSError) else error
        remedy = f"stop what listens there, or choose another with {flag('port')} or {variable('port')}"
        raise AddressInUseError(f"cannot listen on {host}:{port} ({reason}); {remedy}") from error
    with listener:
        yield listener
