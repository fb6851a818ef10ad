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
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, disable_created_metrics

from service.admission import Limiter, Shares
from service.apart import Apart
from service.api.status import LOADING
from service.app import create_app
from service.attempts import FollowOptions
from service.cache import VectorCache
from service.cache_room import Room
from service.comparison import Comparer
from service.connections import Connections
from service.cores import ThreadPlan, available_cores, plan_threads
from service.descriptors import connection_limit, raise_file_limit
from service.errors import AddressInUseError, SettingsError, TokensError
from service.follow import Follower
from service.generation import Verify
from service.guard import Guard, ProofOptions
from service.head_start import HeadStart
from service.history import History
from service.inspection import Gatekeeper
from service.limits import make_limit
from service.live import Live, LiveOptions
from service.loader import Loader, gate_options, generation_options
from service.logs import configure
from service.loop_lag import LoopLag
from service.metrics import Metrics
from service.mirror import WHO, Mirror, MirrorOptions
from service.parts import Parts
from service.pipeline import Pipeline
from service.progress import Observers, Progress
from service.recent import RecentQueries
from service.repeats import Repeats
from service.runtime import Runtime
from service.settings import Settings, flag, trust_of, variable
from service.shadow import Shadow, ShadowOptions
from service.shedding import Shedding
from service.spare import Spare
from service.swap import Generations
from service.tokens import Tokens
from service.watch import WatchOptions
from service.workers import Workers
from snapshot.errors import RegistryError, SnapshotError
from snapshot.registry import Registry
from snapshot.remote import Remote
from snapshot.stores import StoreOptions

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
_BESIDE_REQUESTS = StoreOptions(connections=4)
"""A pull beside requests, which must not notice it."""
_BUSY_SHARE = 0.1
"""Of what looking at live queries again may take, that is left to it while requests keep the service busy."""
_QUIET_SECONDS = 5.0
"""Without a refusal, until an overload is over."""

_log = structlog.get_logger(__name__)


def compose(settings: Settings, undo: ExitStack, head_start: HeadStart | None = None) -> Parts:
    """Build every part; ``undo`` learns how to stop what was built, last built first. Only the worker threads run yet."""
    tokens = _tokens(settings)
    threads = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    cache = VectorCache(settings.query_cache_bytes)
    metrics = Metrics(CollectorRegistry(), settings, threads)
    limiter = _limiter(settings, threads)
    workers = Workers(threads.workers, metrics.encoded)
    workers.start()
    undo.callback(workers.close)
    progress = Progress(time.monotonic)
    observers = Observers(metrics, progress)
    generations = Generations(observers, settings.keep_former or settings.watch_seconds > 0)
    undo.callback(generations.close, _STOP_SECONDS)
    metrics.plain.register(Runtime(lambda: generations.current, limiter, workers, cache))
    recent = RecentQueries(settings.recent_queries, settings.recent_query_bytes)
    metrics.gate.held(lambda: generations.open, lambda: len(recent))
    registry = Registry(settings.registry)
    options = FollowOptions(poll_seconds=settings.follow_interval_seconds)
    guard = _guard(settings, generations, metrics)
    shadow = Shadow(_shadow_options(settings), generations.peer, recent, metrics.gate.shadow)
    verify = (head_start or HeadStart(trust_of(settings))).verify
    spare = Spare(settings.swap_cpu_share, threads.cores)
    loader = _loader(settings, threads, generations, recent, verify, shadow, registry.has_served, spare, cache)
    follower = Follower(registry, generations, loader, options, observers, guard=guard, spare=spare)
    undo.callback(follower.stop, _STOP_SECONDS)
    mirror = _mirror(settings, registry, generations, metrics, follower)
    if mirror is not None:
        undo.callback(mirror.stop, _STOP_SECONDS)
    live = _live(settings, threads, generations, metrics)
    undo.callback(live.stop, _STOP_SECONDS)
    hear = live.hear if live.on else None
    comparer = Comparer(generations)
    undo.callback(comparer.close)
    pipeline = Pipeline(generations, workers, limiter, cache, metrics, settings.plan_probability, recent.note, hear)
    return Parts(
        settings,
        metrics,
        limiter,
        pipeline,
        generations,
        follower,
        progress,
        tokens,
        registry,
        cache,
        threads,
        time.monotonic,
        live,
        History(metrics, settings.default_timeout_ms, time.monotonic, lambda: _recall(live, generations)),
        comparer,
        mirror,
    )


def _recall(live: Live, generations: Generations) -> float | None:
    estimate = live.figures(generations.serving).recall
    return None if estimate is None else estimate.mean


def _tokens(settings: Settings) -> Tokens:
    """A file that is wrong at the start is a wrong setting; later it only closes operators' routes."""
    tokens = Tokens(settings.admin_tokens_file)
    try:
        tokens.table()
    except TokensError as error:
        name = "admin_tokens_file"
        raise SettingsError(f"{name}: {error} (set {flag(name)} or {variable(name)})") from error
    return tokens


def _mirror(
    settings: Settings, registry: Registry, generations: Generations, metrics: Metrics, follower: Follower
) -> Mirror | None:
    """SettingsError where the remote registry cannot even be tried."""
    if settings.remote_registry is None:
        return None
    try:
        remote = Remote(settings.remote_registry, _BESIDE_REQUESTS)
    except SnapshotError as error:
        raise SettingsError(f"remote_registry: {error}") from error
    room = Room(registry, settings.registry_cache_bytes, WHO, lambda: generations.serving)
    options = MirrorOptions(poll_seconds=settings.remote_interval_seconds, trust=trust_of(settings))
    return Mirror(remote, registry, room, options, metrics, follower.poke)


def _guard(settings: Settings, generations: Generations, metrics: Metrics) -> Guard:
    proofs = ProofOptions(settings.proof_interval_seconds, settings.proof_rollback)
    watch = WatchOptions(
        settings.watch_seconds, settings.watch_max_error_share, settings.watch_max_late_share, settings.watch_min_answers
    )
    return Guard(generations, proofs, watch, metrics.vitals, metrics.gate, keep_former=settings.keep_former)


def _loader(
    settings: Settings,
    threads: ThreadPlan,
    generations: Generations,
    recent: RecentQueries,
    verify: Verify,
    shadow: Shadow,
    served_before: Callable[[str], bool],
    spare: Spare,
    cache: VectorCache,
) -> Loader:
    loading = generation_options(settings, threads)
    gatekeeper = Gatekeeper(gate_options(settings), generations.peer, recent)
    apart = Apart(gate_options(settings), loading, trust_of(settings), spare)
    return Loader(loading, generations, gatekeeper, recent, verify, shadow, served_before, apart, cache)


def _live(settings: Settings, threads: ThreadPlan, generations: Generations, metrics: Metrics) -> Live:
    options = LiveOptions(
        settings.live_recall_share,
        settings.live_teacher_share,
        settings.live_window,
        settings.live_worst_queries,
        settings.live_worst_queries_file,
    )
    most = settings.live_cpu_share
    live = Live(options, generations, metrics.live, Spare(_BUSY_SHARE * most, threads.cores, most=most))
    metrics.live.shown(lambda: live.figures(generations.serving))
    return live


def _shadow_options(settings: Settings) -> ShadowOptions:
    return ShadowOptions(
        settings.shadow_share,
        settings.shadow_queries,
        settings.shadow_seconds,
        settings.shadow_cpu_share,
        settings.gate_min_overlap,
        settings.shadow_max_latency_ratio,
    )


def _limiter(settings: Settings, threads: ThreadPlan) -> Limiter:
    limit = make_limit(settings.concurrency_limit, threads.workers, settings.max_concurrency)
    return Limiter(limit, threads.workers, random.random, Shares(settings.embed_share, settings.batch_share))


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
        if parts.mirror is not None:
            parts.mirror.start()
        parts.follower.start()
        if parts.live.on:
            parts.live.start()
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
