"""What each stage costs here and now, learned from the requests themselves: percentiles that forget.

A cost is kept as a histogram whose buckets are 15% apart. Old observations fade by forward decay (Cormode, Shkapenyuk,
Srivastava and Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009): a new observation weighs
more, instead of the old ones being weighed down one by one, so that observing touches one bucket.

Threads: an Estimator is written and read by many threads without a lock. Each replaces whole references (the buckets with
their landmark, the answers) or adds to one bucket. Under the GIL two that meet may lose one observation; nothing can be torn.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate
from typing import Literal, get_args

from service.deadline import Clock
from service.walk import Stage
from snapshot.manifest import Index

CostStage = Stage | Literal["reply"]
"""The stages of a walk, and from the end of work to the answer being handed to the transport."""

EXPORTED_QUANTILES = (0.5, 0.99)
WHOLE = "all"
"""The key of a stage whose cost is not told apart any further."""

HALF_LIFE_SECONDS = 30.0
FORGET_SECONDS = 5.0
REMEMBER_SECONDS = 60.0
"""Before a cost is forgotten where others do what is refused here, and a request now and then tries it (``Remembered``)."""
_ALIKE = 1.5
"""A cost within this factor of the median says the same as before."""
_SPEED_SECONDS = 300.0
"""A machine changes less often than a load."""
_LEAST_MS, _MOST_MS, _RATIO = 0.01, 20_000.0, 1.15
_PER_BUCKET = 1 / math.log(_RATIO)
_LAST_BUCKET = math.ceil(math.log(_MOST_MS / _LEAST_MS) * _PER_BUCKET)
_ENOUGH = 3.0
"""Observations, faded ones counted in part, below which nothing is said."""
_REFRESH_SECONDS = 0.05
"""A busy estimator works its percentiles out this often, a young one more often: whenever it has seen an eighth more."""
_MOST_HALF_LIVES = 64.0
"""Of age of the landmark before weights are made small again: far from where floats end."""
_LARGEST_CLASS = 15
_SHALLOW = 64
Band = Literal["broad", "filtered", "narrow"]
"""Of filters, whose searches cost much the same: they pass by little; they pass by much; they compare the few that are left."""
BANDS: tuple[Band, ...] = get_args(Band)
_BROAD_SHARE, _NARROW_COUNT = 1 / 8, 4096
_LEARN_SECONDS = 0.005
"""Between two requests that are learned from: 200 a second tell as much as all of them."""


class Load(StrEnum):
    """Costs under contention are other costs."""

    QUIET = "quiet"
    BUSY = "busy"


_PREFERRED = {Load.QUIET: (Load.QUIET, Load.BUSY), Load.BUSY: (Load.BUSY, Load.QUIET)}


def load_of(in_flight: int, workers: int) -> Load:
    """BUSY where a request has to share: more are in flight than there are threads to work on them."""
    return Load.BUSY if in_flight > workers else Load.QUIET


def band_of(count: int, total: int) -> Band:
    """Of a filter that has selected ``count`` of ``total`` documents."""
    if count <= _NARROW_COUNT:
        return "narrow"
    return "broad" if count >= total * _BROAD_SHARE else "filtered"


def search_key(effort: int | None, band: Band | None, window: int = 0) -> str:
    """The key of a search for the ``window`` best; ``effort`` is None for an exact one, ``band`` for one without a filter.

    As far as effort tables reach (64) the window makes no difference; beyond, it is told apart by powers of four.
    """
    return _search_key(effort, band, (window - 1).bit_length() + 1 >> 1 if window > _SHALLOW else 0)


@lru_cache(maxsize=1024)
def _search_key(effort: int | None, band: Band | None, depth: int) -> str:
    name = ("exact" if effort is None else str(effort)) + (f" {band}" if band else "")
    return f"{name} to {4**depth}" if depth else name


def size_key(size: int) -> str:
    """The key of what costs by size, such as tokens to encode: the next power of two; one of 16."""
    return _SIZES[_size_class(size)]


def fetch_key(k: int, with_fields: bool) -> str:
    """The key of fetching, and of rendering, ``k`` hits; one of 32."""
    return (_FIELDS if with_fields else _IDS)[_size_class(k)]


def _size_class(size: int) -> int:
    return min((size - 1).bit_length(), _LARGEST_CLASS) if size > 1 else 0


_SIZES = tuple(str(1 << i) for i in range(_LARGEST_CLASS + 1))
_FIELDS = tuple(f"{size} with fields" for size in _SIZES)
_IDS = tuple(f"{size} ids" for size in _SIZES)


class Estimator:
    """Percentiles of one cost in milliseconds, to within a bucket of 15%, from 0.01 ms to 20 s.

    What has not been observed for some seconds is forgotten whole. A cost that is believed to be high is not paid, so it is
    not observed either: fading alone would keep such a belief for as long as it took to form. It is believed again as soon as
    one observation says the same, so that finding out costs one request and not as many as it took to learn it.
    """

    __slots__ = ("_answers", "_forget", "_half_life", "_last", "_refresh_at", "_refresh_by", "_seen", "_state")

    _answers: dict[float, float | None]
    _last: float
    _refresh_at: int
    _refresh_by: float
    _seen: int
    _state: tuple[list[float], float]

    def __init__(self, half_life_seconds: float = HALF_LIFE_SECONDS, forget_seconds: float = FORGET_SECONDS) -> None:
        self._half_life = half_life_seconds
        self._forget = forget_seconds
        self._start(-math.inf)

    def observe(self, ms: float, now: float) -> None:
        """Learn one cost, seen at ``now``, in seconds of a monotonic clock."""
        if now - self._last > self._forget and not self._is_as_before(ms):
            self._start(now)
        weights, landmark = self._state
        age = (now - landmark) / self._half_life
        if age > _MOST_HALF_LIVES:
            weights, age = self._rebase(weights, age, now), 0.0
        bucket = int(math.log(ms / _LEAST_MS) * _PER_BUCKET) + 1 if ms > _LEAST_MS else 0
        weights[min(bucket, _LAST_BUCKET)] += 2.0**age
        self._seen += 1
        self._last = now

    def quantile(self, p: float, now: float, forget_seconds: float | None = None) -> float | None:
        """The cost that a share ``p`` of observations does not exceed, in milliseconds; None where too few say anything.

        The greatest observation alone never decides: one pause of the machine is no evidence of what a stage costs.
        ``forget_seconds`` is another time than the estimator's own after which nothing is said.
        """
        if now - self._last > (self._forget if forget_seconds is None else forget_seconds):
            return None
        if self._seen >= self._refresh_at or now >= self._refresh_by:
            self._refresh(now)
        answers = self._answers
        if p not in answers:
            answers[p] = self._work_out(p, now)
        return answers[p]

    def _is_as_before(self, ms: float) -> bool:
        median = self._work_out(0.5, self._last)
        return median is not None and median <= ms * _ALIKE and ms <= median * _ALIKE

    def _start(self, now: float) -> None:
        self._state = ([0.0] * (_LAST_BUCKET + 1), now)
        self._last = now
        self._seen = self._refresh_at = 0
        self._refresh_by = now
        self._answers = {}

    def _rebase(self, weights: list[float], age: float, now: float) -> list[float]:
        rebased = [weight * 2.0**-age for weight in weights]
        self._state = (rebased, now)
        return rebased

    def _refresh(self, now: float) -> None:
        self._refresh_at = self._seen + max(1, self._seen // 8)
        self._refresh_by = now + _REFRESH_SECONDS
        self._answers = {}

    def _work_out(self, p: float, now: float) -> float | None:
        weights, landmark = self._state
        upto = list(accumulate(weights))
        one = 2.0 ** ((now - landmark) / self._half_life)
        if upto[-1] < _ENOUGH * one:
            return None
        wanted = min(p * upto[-1], upto[-1] - one)
        bucket = bisect_left(upto, wanted)
        if bucket == 0:
            return _LEAST_MS
        inside = (wanted - upto[bucket - 1]) / (upto[bucket] - upto[bucket - 1])
        return float(_LEAST_MS * _RATIO ** (bucket - 1 + inside))


Speeds = Mapping[Load, Estimator]
"""What searches take over the effort table's medians: the machine's, so it may outlive a generation."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One learned percentile, as exported."""

    stage: CostStage
    key: str
    load: Load
    quantile: float
    seconds: float


class Costs:
    """The cost model of one generation: another snapshot has other costs. Used by many threads.

    Keys come from ``search_key``, ``size_key``, ``fetch_key`` and ``WHOLE``: there is a bounded number of them.
    """

    def __init__(self, index: Index, clock: Clock, before: Costs | None = None) -> None:
        """Start knowing nothing but, from the model ``before``, how this machine compares with effort tables."""
        self._clock = clock
        self._learn_at = -math.inf
        self._table_ms = {search_key(row.effort, None): row.p50_ms for row in index.efforts if row.p50_ms > 0}
        self._estimators: dict[Load, dict[tuple[CostStage, str], Estimator]] = {load: {} for load in Load}
        self.speeds: Speeds = before.speeds if before else {load: Estimator(_SPEED_SECONDS, _SPEED_SECONDS) for load in Load}

    def is_to_learn(self) -> bool:
        """Whether what begins now is to be learned from, unless something has just been: costs change slowly.

        Asked at the beginning: of what ends after a while, what takes long is met more often than it comes.
        """
        now = self._clock()
        if now < self._learn_at:
            return False
        self._learn_at = now + _LEARN_SECONDS
        return True

    def learn(self, kinds: Mapping[Stage, str], spent_ms: Mapping[Stage, float], load: Load) -> None:
        """Learn what the stages of one request, or of a batch's item, took."""
        for stage, kind in kinds.items():
            if stage in spent_ms:
                self.observe(stage, kind, spent_ms[stage], load)

    def observe(self, stage: CostStage, key: str, ms: float, load: Load) -> None:
        """Learn what a stage took."""
        now, estimators = self._clock(), self._estimators[load]
        estimator = estimators.get((stage, key)) or estimators.setdefault((stage, key), Estimator())
        estimator.observe(ms, now)
        if stage == "search" and key in self._table_ms:
            self.speeds[load].observe(ms / self._table_ms[key], now)

    def cost_ms(
        self, stage: CostStage, key: str, probability: float, load: Load, forget_seconds: float = FORGET_SECONDS
    ) -> float | None:
        """What a stage costs at most, with ``probability``; where ``load`` has not been seen lately, under the other load.

        None where it has not been seen at all, or not for ``forget_seconds``.
        """
        now = self._clock()
        for seen_under in _PREFERRED[load]:
            estimator = self._estimators[seen_under].get((stage, key))
            if estimator is not None and (ms := estimator.quantile(probability, now, forget_seconds)) is not None:
                return ms
        return None

    def speed(self, load: Load) -> float | None:
        """Median of what searches take here over the effort table's median; None where none has been seen lately."""
        now = self._clock()
        ratios = (self.speeds[seen_under].quantile(0.5, now) for seen_under in _PREFERRED[load])
        return next((ratio for ratio in ratios if ratio is not None), None)

    def export(self) -> Iterable[Cost]:
        """Every percentile that is known now."""
        now = self._clock()
        for load, estimators in self._estimators.items():
            for (stage, key), estimator in list(estimators.items()):
                for quantile in EXPORTED_QUANTILES:
                    if (ms := estimator.quantile(quantile, now)) is not None:
                        yield Cost(stage, key, load, quantile, ms / 1000.0)


@dataclass(frozen=True, slots=True)
class Remembered:
    """The cost model with a longer memory, for requests that somebody else does where they are refused here."""

    costs: Costs

    def cost_ms(self, stage: CostStage, key: str, probability: float, load: Load) -> float | None:
        """As ``Costs.cost_ms``, until ``REMEMBER_SECONDS`` have passed."""
        return self.costs.cost_ms(stage, key, probability, load, REMEMBER_SECONDS)

    def speed(self, load: Load) -> float | None:
        """As ``Costs.speed``."""
        return self.costs.speed(load)
