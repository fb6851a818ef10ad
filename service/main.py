"""The composition root: settings to parts to a listening server, and back down in reverse order."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, disable_created_metrics

from service.admission import Limiter, Shares
from service.api.status import LOADING
from service.app import create_app
from service.cache import VectorCache
from service.connections import Connections
from service.cores import ThreadPlan, available_cores, plan_threads
from service.descriptors import connection_limit, raise_file_limit
from service.errors import AddressInUseError
from service.follow import Follower, FollowOptions
from service.generation import Generation, GenerationOptions, Step, Verify, open_generation
from service.head_start import HeadStart
from service.limits import make_limit
from service.logs import configure
from service.loop_lag import LoopLag
from service.metrics import Metrics
from service.parts import Parts
from service.pipeline import Pipeline
from service.repeats import Repeats
from service.runtime import Runtime
from service.settings import Settings, flag, variable
from service.shedding import Shedding
from service.swap import Generations
from service.workers import Workers
from snapshot.errors import RegistryError
from snapshot.layout import Layout
from snapshot.registry import Registry

_BACKLOG = 2048
_WRITE_SECONDS = 1
"""For answers that are ready to be written out, after the drain."""
_SWITCH_SECONDS = 0.0001
"""A worker that comes back from the graph needs the interpreter's lock. A busy event loop gives it up only when asked, which
Python does after 5 ms: under a flood of requests to refuse, several times the work of one to answer."""
_STOP_SECONDS = 1.0
"""For each part that may be in the middle of something when the drain is over."""
_GC_THRESHOLDS = (2_000, 10, 200)
"""Of Python's collector, which by default goes through every object whenever some ten thousand are new: with 10,000 idle
connections that held the event loop for up to 0.2 s. Requests and connections leave nothing to it."""
_QUIET_SECONDS = 5.0
"""Without a refusal, until an overload is over."""

_log = structlog.get_logger(__name__)


def compose(settings: Settings, undo: ExitStack, head_start: HeadStart | None = None) -> Parts:
    """Build every part; ``undo`` learns how to stop what was built, last built first. Only the worker threads run yet."""
    threads = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    cache = VectorCache(settings.query_cache_bytes)
    metrics = Metrics(CollectorRegistry(), settings, threads)
    limiter = _limiter(settings, threads)
    workers = Workers(threads.workers, metrics.encoded)
    workers.start()
    undo.callback(workers.close)
    generations = Generations(metrics)
    undo.callback(generations.close, _STOP_SECONDS)
    metrics.plain.register(Runtime(lambda: generations.current, limiter, workers, cache))
    registry = Registry(settings.registry)
    options = FollowOptions(poll_seconds=settings.follow_interval_seconds)
    loading = GenerationOptions(threads.encoder, settings.batching == "auto", settings.filter_cache_bytes)
    verify = (head_start or HeadStart()).verify
    follower = Follower(registry, generations, partial(_open, loading, generations, verify), options, metrics)
    undo.callback(follower.stop, _STOP_SECONDS)
    pipeline = Pipeline(generations, workers, limiter, cache, metrics, settings.plan_probability)
    return Parts(settings, metrics, limiter, pipeline, generations, follower, registry, cache, threads, time.monotonic)


def _limiter(settings: Settings, threads: ThreadPlan) -> Limiter:
    limit = make_limit(settings.concurrency_limit, threads.workers, settings.max_concurrency)
    return Limiter(limit, threads.workers, random.random, Shares(settings.embed_share, settings.batch_share))


def _open(
    options: GenerationOptions, generations: Generations, verify: Verify, layout: Layout, on_step: Callable[[Step], None]
) -> Generation:
    return open_generation(layout, options, on_step, generations.current, verify)


def serve(settings: Settings, head_start: HeadStart) -> int:
    """Serve until told to stop; the exit code. What is served first may be being verified already.

    Raises:
        AddressInUseError: the address cannot be bound.
    """
    repeats = configure(settings.log_level, settings.log_format, sys.stderr)
    sys.setswitchinterval(_SWITCH_SECONDS)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one, which no query of ours reads
    raise_file_limit()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read by the library at each call: its pool has a thread for each core
    with listening(settings) as listener, ExitStack() as undo:
        parts = compose(settings, undo, head_start)
        parts.follower.start()
        _announce(listener, parts)
        undo.callback(repeats.flush)
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        DrainingServer(parts, repeats).run(sockets=[listener])
    stuck = _outlived(_STOP_SECONDS)
    _log.info("stopped", stuck=stuck)
    if stuck:
        # A thread inside the engine cannot be interrupted, and Python would wait for it, however long, before it ends.
        logging.shutdown()
        os._exit(0)
    return 0


def _outlived(timeout_seconds: float) -> list[str]:
    """Names of the threads that Python would wait for and that do not end in time."""
    end = time.monotonic() + timeout_seconds
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread.name for thread in others if thread.is_alive()]


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


def _announce(listener: socket.socket, parts: Parts) -> None:
    address, port = listener.getsockname()[:2]
    registry = parts.registry
    try:
        wanted = registry.current()
    except RegistryError:  # the follower logs why, and goes on trying
        wanted = None
    connections = connection_limit(parts.settings.max_connections)
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    _log.info(
        "listening",
        url=url,
        registry=str(registry.root),
        snapshot=wanted,
        threads=parts.threads.as_dict(),
        connections=connections,
    )
