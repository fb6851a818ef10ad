"""What the application is made of; built by ``service.main``, or by a test."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from service.admission import Limiter
from service.cache import VectorCache
from service.comparison import Comparer
from service.cores import ThreadPlan
from service.deadline import Clock
from service.follow import Follower
from service.history import History
from service.keys.ring import KeyRing
from service.live import Live
from service.long_bodies import LongBodies
from service.metrics import Metrics
from service.mirror import Mirror
from service.pipeline import Pipeline
from service.progress import Progress
from service.settings import Settings
from service.swap import Generations
from service.tokens import Tokens
from service.tracing import Tracer
from service.trial import Trials
from snapshot.registry import Registry


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a route may use.

    Attributes:
        clock: monotonic seconds.
        instance: tells this process from every other one, and from itself before a restart.
        mirror: of the remote registry, where one is followed.
        keys: that callers need, where they need one.
        tracer: where requests are traced.
        scrapes: the thread that writes /metrics; not asyncio's, which a disk that stands still may hold.
    """

    settings: Settings
    metrics: Metrics
    limiter: Limiter
    pipeline: Pipeline
    generations: Generations
    follower: Follower
    progress: Progress
    tokens: Tokens
    registry: Registry
    cache: VectorCache
    threads: ThreadPlan
    clock: Clock
    live: Live
    history: History
    comparer: Comparer
    trials: Trials
    mirror: Mirror | None = None
    keys: KeyRing | None = None
    tracer: Tracer | None = None
    long_bodies: LongBodies = field(default_factory=LongBodies)
    scrapes: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1, "scrape"))
    instance: str = field(default_factory=lambda: uuid4().hex)
