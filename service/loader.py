"""How the follower's snapshots are loaded: inspected by the gate beside what serves, and, where wanted, shadowed first."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from service.apart import Apart
from service.cache import VectorCache
from service.cores import ThreadPlan
from service.encoder import Tokenizers
from service.follow import Enter
from service.gate import GateOptions
from service.generation import Beside, Generation, GenerationOptions, Step, Verify, open_generation
from service.inspection import Gatekeeper, Inspection
from service.queries import carry_over
from service.recent import RecentQueries
from service.settings import Settings
from service.settings_milvus import milvus_server
from service.shadow import Shadow
from service.swap import Generations
from snapshot.layout import Layout
from snapshot.registry import Desire
from snapshot.verify import verify

_WARM_QUERIES = 64


def gate_options(settings: Settings) -> GateOptions:
    """The limits of the gate."""
    return GateOptions(
        recall_tolerance=settings.gate_recall_tolerance,
        min_documents_ratio=settings.gate_min_documents_ratio,
        max_documents_ratio=settings.gate_max_documents_ratio,
        required_ids=settings.gate_required_ids,
        min_overlap=settings.gate_min_overlap,
        p99_ms=settings.gate_p99_ms or settings.default_timeout_ms,
        memory_share=settings.gate_memory_share,
        filter_cache_bytes=settings.filter_cache_bytes,
        trusts=bool(settings.trusted_keys),
    )


def generation_options(settings: Settings, threads: ThreadPlan) -> GenerationOptions:
    """How snapshots are loaded."""
    return GenerationOptions(
        threads.encoder, settings.batching == "auto", settings.filter_cache_bytes, milvus_server(settings), threads.search
    )


class _Stopwatch:
    """Hands steps on, and measures each from when it is entered until the next one is, whoever works meanwhile."""

    def __init__(self, enter: Enter, clock: Callable[[], float]) -> None:
        self._enter = enter
        self._clock = clock
        self._running: tuple[Step, float] | None = None
        self.seconds: dict[Step, float] = {}

    def __call__(self, step: Step) -> None:
        self._enter(step)
        self.stop()
        self._running = (step, self._clock())

    def stop(self) -> None:
        """The last step is over."""
        if self._running is not None:
            step, begun = self._running
            self.seconds[step] = self.seconds.get(step, 0.0) + self._clock() - begun
            self._running = None


class Loader:
    """An Opener."""

    def __init__(
        self,
        options: GenerationOptions,
        generations: Generations,
        gatekeeper: Gatekeeper,
        recent: RecentQueries,
        verify: Verify = verify,
        shadow: Shadow | None = None,
        served_before: Callable[[str], bool] = lambda _: False,
        apart: Apart | None = None,
        cache: VectorCache | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing is loaded yet; what is loaded beside another snapshot is judged by ``apart``, else in this process."""
        self._options = options
        self._generations = generations
        self._gatekeeper = gatekeeper
        self._recent = recent
        self._verify = verify
        self._shadow = shadow
        self._served_before = served_before
        self._apart = apart
        self._cache = cache or VectorCache(0)
        self._clock = clock
        self._tokenizers = Tokenizers()

    def inspect(self, desire: Desire, pace: Callable[[], None]) -> Inspection:
        """Begin an inspection; one who goes back is not asked how much is like what they leave."""
        comparing = desire.action != "rollback"
        starts = self._generations.current is None
        served_before = starts and self._served_before(desire.snapshot)
        return self._gatekeeper.begin(desire.snapshot, desire.forced, desire.why, comparing, pace, served_before)

    def open(self, layout: Layout, enter: Enter, inspection: Inspection) -> Generation:
        """Load, judge and warm a snapshot, and let it answer a share of the live queries where that is wanted."""
        beside = Beside(self._generations.current, self._recent.latest(_WARM_QUERIES), self._tokenizers, pace=inspection.pace)
        enter = watch = _Stopwatch(enter, self._clock)
        with ExitStack() as opened:
            if beside.before is None or self._apart is None:
                new = open_generation(layout, self._options, enter, replace(beside, inspector=inspection), self._verify)
            else:
                new = self._judged(layout, enter, beside, inspection, self._apart)
            opened.callback(new.close)
            if self._shadow is not None and self._shadow.on and beside.before is not None and inspection.comparing:
                enter("shadowing")
                inspection.record.add(*self._shadow.run(new, inspection.pace))
                inspection.record.settle()
            if beside.before is not None:
                carry_over(self._cache, beside.before, new, inspection.pace)
            opened.pop_all()
        watch.stop()
        return replace(new, load_seconds=watch.seconds)

    def _judged(self, layout: Layout, enter: Enter, beside: Beside, inspection: Inspection, apart: Apart) -> Generation:
        """Have it judged in another process, and open here what has passed, which counts as warming it up."""
        verify = apart.judge(layout, inspection, enter)
        enter("warming")
        return open_generation(layout, self._options, lambda _: inspection.pace(), beside, verify)
