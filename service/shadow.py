"""The candidate answers a share of the live queries beside the snapshot that serves; nobody gets its answers.

All of it runs on one thread of low priority, the follower's, which measures the processor time that it takes and waits
when that is more than its share. What comes faster than it can be compared is dropped, the oldest first.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import structlog

from service.checks import ENOUGH_QUERIES, K, Pace, search_once, share_in_common
from service.gate import Check, not_applicable
from service.generation import Generation
from service.recent import RecentQueries, digest
from snapshot.errors import EngineError

OUTCOMES = ("compared", "failed", "dropped")
_WAITING = 64
"""Queries that wait to be compared."""
_WAIT_SECONDS = 0.1
_LEAST_WAIT_SECONDS = 0.001

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShadowOptions:
    """How much is compared, and with which limits.

    Attributes:
        share: of live queries that are compared, as far as there is time; 0: no shadow.
        queries: compared ones that are enough.
        seconds: that it takes at most, however few there were.
        cpu_share: of one core, at most.
        min_overlap: least mean overlap@10.
        max_latency_ratio: most of the candidate's median search over that of the snapshot that serves, on this thread.
    """

    share: float = 0.0
    queries: int = 200
    seconds: float = 60.0
    cpu_share: float = 0.1
    min_overlap: float = 0.2
    max_latency_ratio: float = 1.5


@dataclass(slots=True)
class _Figures:
    overlaps: list[float] = field(default_factory=list)
    ours_ms: list[float] = field(default_factory=list)
    theirs_ms: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def asked(self) -> int:
        return len(self.overlaps) + self.errors


def _uncounted(outcome: str) -> None:
    """Nobody counts."""


class Shadow:
    """Compares one candidate at a time."""

    def __init__(
        self,
        options: ShadowOptions,
        peer: Callable[[], AbstractContextManager[Generation | None]],
        recent: RecentQueries,
        count: Callable[[str], None] = _uncounted,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is compared yet.

        Args:
            options: how much, and with which limits.
            peer: what serves meanwhile.
            recent: where live queries are heard of.
            count: hears one of ``OUTCOMES`` for each query that was chosen.
            clock: monotonic seconds.
            cpu: seconds of processor time that the calling thread has taken.
            wait: until an event is set, or so many seconds have passed.
            chance: from 0 to 1, for each live query.
        """
        self._options = options
        self._peer = peer
        self._recent = recent
        self._count = count
        self._clock = clock
        self._cpu = cpu
        self._wait = wait
        self._chance = chance
        self._waiting: deque[str] = deque()
        self._woken = threading.Event()

    @property
    def on(self) -> bool:
        """Whether candidates are compared at all."""
        return self._options.share > 0

    def run(self, new: Generation, pace: Pace) -> list[Check]:
        """Compare until there is enough, or the time is over; what came of it, as checks of quality."""
        self._waiting.clear()
        with self._recent.tapped(self._hear):
            figures = self._compare(new, pace)
        return self._checks(figures)

    def _hear(self, query: str) -> None:
        """On the thread that answers the query: only chosen and put aside here."""
        if self._chance() >= self._options.share:
            return
        self._waiting.append(query)
        if len(self._waiting) > _WAITING:
            self._waiting.popleft()
            self._count("dropped")
        self._woken.set()

    def _compare(self, new: Generation, pace: Pace) -> _Figures:
        figures, begun, cpu = _Figures(), self._clock(), self._cpu()
        while figures.asked < self._options.queries and (passed := self._clock() - begun) < self._options.seconds:
            pace()
            rest = (self._cpu() - cpu) / self._options.cpu_share - passed
            if rest > 0:
                self._wait(threading.Event(), max(_LEAST_WAIT_SECONDS, min(rest, _WAIT_SECONDS)))
            elif self._waiting:
                self._ask(new, self._waiting.popleft(), figures)
            else:
                self._woken.clear()
                self._wait(self._woken, _WAIT_SECONDS)
        return figures

    def _ask(self, new: Generation, query: str, figures: _Figures) -> None:
        with self._peer() as serving:
            if serving is None:
                return
            begun = self._clock()
            try:
                theirs = search_once(serving, query)
            except EngineError:  # what serves answers nobody: there is nothing to compare with
                self._count("dropped")
                return
            between = self._clock()
            try:
                ours = search_once(new, query)
            except Exception as error:  # noqa: BLE001 - counted, and refused for: whatever a user's query does to it
                figures.errors += 1
                self._count("failed")
                _log.warning("shadow_failed", snapshot=new.id, query_sha256=digest(query), error=type(error).__name__)
                return
        figures.overlaps.append(share_in_common(ours, theirs))
        figures.theirs_ms.append((between - begun) * 1000.0)
        figures.ours_ms.append((self._clock() - between) * 1000.0)
        self._count("compared")

    def _checks(self, figures: _Figures) -> list[Check]:
        options = self._options
        if figures.asked < ENOUGH_QUERIES:
            reason = f"{figures.asked} live queries came, {ENOUGH_QUERIES} are needed"
            return [
                not_applicable("shadow_errors", 0, reason),
                not_applicable("shadow_overlap", options.min_overlap, reason),
                not_applicable("shadow_p50", options.max_latency_ratio, reason),
            ]
        asked = f"{figures.asked} live queries"
        errors = Check("shadow_errors", figures.errors, 0, figures.errors == 0, forcible=True, detail=f"of {asked}")
        if not figures.overlaps:
            return [errors]
        overlap = float(np.mean(figures.overlaps))
        ours, theirs = float(np.median(figures.ours_ms)), float(np.median(figures.theirs_ms))
        ratio, most, least = ours / theirs if theirs else 1.0, options.max_latency_ratio, options.min_overlap
        detail = f"median search over that of the snapshot that serves: {ours:.2f} ms over {theirs:.2f} ms, {asked}"
        return [
            errors,
            Check("shadow_overlap", round(overlap, 4), least, overlap >= least, True, f"mean overlap@{K}, {asked}"),
            Check("shadow_p50", round(ratio, 3), most, ratio <= most, forcible=True, detail=detail),
        ]
