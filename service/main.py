"""The composition root: settings to parts to a listening server, and back down in reverse order."""

from __future__ import annotations

import gc
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics

from service.admission import Limiter, Shares
from service.apart import Apart
from service.attempts import FollowOptions
from service.cache import VectorCache
from service.cache_room import Room
from service.comparison import Comparer
from service.cores import ThreadPlan, available_cores, plan_threads
from service.descriptors import connection_limit, raise_file_limit
from service.entrances import keys_of, tokens_of
from service.errors import SettingsError
from service.follow import Follower
from service.generation import Verify
from service.guard import Guard, ProofOptions
from service.head_start import HeadStart
from service.history import History
from service.inspection import Gatekeeper
from service.limits import make_limit
from service.live import Live, LiveOptions
from service.loader import Loader, gate_options, generation_options
from service.log_writer import LogWriter
from service.logs import configure
from service.metrics import Metrics
from service.mirror import WHO, Mirror, MirrorOptions
from service.parts import Parts
from service.pipeline import Pipeline
from service.progress import Observers, Progress
from service.recent import RecentQueries
from service.repeats import Repeats
from service.runtime import Runtime
from service.server import DrainingServer, listening
from service.settings import Settings, trust_of
from service.settings_unknown import warn_of_unknown
from service.shadow import Shadow, ShadowOptions
from service.spare import Spare
from service.swap import Generations
from service.telemetry import start_tracing
from service.trial import Trials
from service.watch import WatchOptions
from service.workers import Workers
from snapshot.errors import RegistryError, SnapshotError
from snapshot.registry import Registry
from snapshot.remote import Remote
from snapshot.stores import StoreOptions

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

_log = structlog.get_logger(__name__)


def compose(settings: Settings, undo: ExitStack, head_start: HeadStart | None = None) -> Parts:
    """Build every part; ``undo`` learns how to stop what was built, last built first. Only the worker threads run yet."""
    tokens = tokens_of(settings)
    threads = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    cache = VectorCache(settings.query_cache_bytes)
    metrics = Metrics(CollectorRegistry(), settings, threads)
    keys = keys_of(settings, metrics.plain)
    tracer = start_tracing(settings, metrics, undo)
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
    trials = Trials()
    follower = Follower(registry, generations, loader, options, observers, guard=guard, spare=spare, trials=trials)
    undo.callback(follower.stop, _STOP_SECONDS)
    mirror = _mirror(settings, registry, generations, metrics, follower, trials)
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
        trials,
        mirror,
        keys,
        tracer,
    )


def _recall(live: Live, generations: Generations) -> float | None:
    estimate = live.figures(generations.serving).recall
    return None if estimate is None else estimate.mean


def _mirror(
    settings: Settings,
    registry: Registry,
    generations: Generations,
    metrics: Metrics,
    follower: Follower,
    trials: Trials,
) -> Mirror | None:
    """SettingsError where the remote registry cannot even be tried."""
    if settings.remote_registry is None:
        return None
    try:
        remote = Remote(settings.remote_registry, _BESIDE_REQUESTS)
    except SnapshotError as error:
        raise SettingsError(f"remote_registry: {error}") from error
    if remote.is_at(registry.root):
        raise SettingsError(f"remote_registry: {remote.url}: the registry itself, which is followed anyway; leave it out")
    room = Room(registry, settings.registry_cache_bytes, WHO, lambda: generations.serving)
    options = MirrorOptions(poll_seconds=settings.remote_interval_seconds, trust=trust_of(settings))
    return Mirror(remote, registry, room, options, metrics.remote, follower.poke, trials=trials)


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
    writer = LogWriter(sys.stderr)
    repeats = configure(settings.log_level, settings.log_format, sys.stderr, time.monotonic, writer, queries=settings.log_queries)
    writer.start()
    try:
        stuck = _serve(settings, head_start, repeats, writer)
    finally:
        written = writer.end(_STOP_SECONDS)
    if stuck or not written:
        # A thread inside the engine cannot be interrupted, nor can a write that nobody reads; Python would wait for it for ever.
        os._exit(0)
    return 0


def _serve(settings: Settings, head_start: HeadStart, repeats: Repeats, writer: LogWriter) -> list[str]:
    """Serve until told to stop; names of the threads that did not end."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one, which no query of ours reads
    raise_file_limit()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read by the library at each call: its pool has a thread for each core
    warn_of_unknown(os.environ)
    with listening(settings) as listener, ExitStack() as undo:
        parts = compose(settings, undo, head_start)
        undo.callback(parts.long_bodies.close)
        undo.callback(parts.scrapes.shutdown, wait=False)
        writer.count(parts.metrics.telemetry.lines_lost)
        if parts.mirror is not None:
            parts.mirror.start()
        parts.follower.start()
        if parts.keys is not None:
            parts.keys.start()
            undo.callback(parts.keys.stop, _STOP_SECONDS)
        if parts.live.on:
            parts.live.start()
        _announce(listener, parts)
        undo.callback(repeats.flush)
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        DrainingServer(parts, repeats).run(sockets=[listener])
    stuck = _outlived(_STOP_SECONDS)
    _log.info("stopped", stuck=stuck)
    return stuck


def _outlived(timeout_seconds: float) -> list[str]:
    """Names of the threads that Python would wait for and that do not end in time."""
    end = time.monotonic() + timeout_seconds
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread.name for thread in others if thread.is_alive()]


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
