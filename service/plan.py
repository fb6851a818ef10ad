"""From the time that is left to a search plan: the degradation ladder. Pure, so that tables can test it.

The ladder, top to bottom: the default effort · less effort · no stored fields · nothing (the caller answers 504).
A rung is taken when its cost at the wanted probability, with fetching, rendering and replying after it, fits into the time
left. The last rung, which is followed only by giving up, is tried when its median fits. There is no rung with fewer hits: a
shorter answer would look like a complete one.

Where a graph is searched for more than a rung's effort, its beam is as wide as what is asked for: rungs below are no cheaper,
and no worse, and are left out.

A cost is what this machine showed under the present load; where that is not known, the effort table's, measured on a quiet
core, times how this machine compares with the one that measured it. That factor can only lower the effort, never refuse: what
is refused is not observed, and a wrong factor would not be noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, get_args

from service.costs import BANDS, FORGET_SECONDS, WHOLE, Band, CostStage, Load, fetch_key, search_key, size_key
from service.deadline import Clock
from snapshot.manifest import Effort, HnswIndex, Index

Cause = Literal["deadline_effort", "deadline_fields"]
"""What was given up for want of time: search effort, stored fields."""

CAUSES: tuple[Cause, ...] = get_args(Cause)
FETCH_MS = 0.5
FETCH_MS_PER_HIT = 0.01
"""Set aside for reading stored fields until it is known: above the medians on two busy cores, 0.2 ms for 10 rows, 8 for 1,000."""
_MEDIAN = 0.5
_FRESH_SECONDS = 0.05
_TRY_SECONDS = 0.5
_LEARN_SECONDS = FORGET_SECONDS + 1.0
"""When a belief has been forgotten, so that one cost that says otherwise ends it, and one that says the same renews it."""


class CostsView(Protocol):
    """What a plan asks of the cost model."""

    def cost_ms(self, stage: CostStage, key: str, probability: float, load: Load) -> float | None:
        """What a stage costs at most, with ``probability``; None where that is not known."""

    def speed(self, load: Load) -> float | None:
        """Times of searches here over the effort table's; None where that is not known."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How one search is done.

    Attributes:
        effort: a row of the snapshot's effort table.
        exact: compare with every eligible row, whatever the effort.
        with_fields: read the stored fields of the hits.
        causes: what was given up, and why; empty where nothing was.
        expected_recall: recall@10 against exact search, as measured when the snapshot was made.
    """

    effort: int
    exact: bool
    with_fields: bool
    causes: tuple[Cause, ...]
    expected_recall: float

    def made_exact(self) -> SearchPlan:
        """What it has become where the engine found exact search to be the cheapest way: no recall was given up."""
        return replace(self, causes=tuple(cause for cause in self.causes if cause != "deadline_effort"), expected_recall=1.0)


class Asked(NamedTuple):
    """What the ladder of a search depends on, besides costs; the names are those of ``plan_search``.

    ``window`` is how many the index is asked for, those that ``offset`` skips among them. ``elsewhere`` says that what is
    refused at once is asked of another instance (``Walk.elsewhere``). ``band`` is the filter's, None until it has selected.
    """

    load: Load
    k: int
    window: int
    exact: bool
    fields: bool
    filtered: bool
    probability: float
    elsewhere: bool = False
    band: Band | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs with what each costs in milliseconds, highest first, and ``least_ms`` of a query whose vector is there."""

    rungs: tuple[tuple[float, SearchPlan], ...]
    least_ms: float


def plan_search(
    remaining_ms: float,
    load: Load,
    index: Index,
    costs: CostsView,
    k: int,
    *,
    exact: bool,
    fields: bool,
    filtered: bool,
    probability: float = 0.99,
    offset: int = 0,
) -> SearchPlan | None:
    """The highest rung of the ladder that fits into ``remaining_ms``, or None where none does.

    Exact search was asked for by name, so only its fields can be given up; until its cost is known, it is tried.

    Args:
        remaining_ms: until the deadline.
        load: chooses the costs: those of a request alone on its core, or of one that shares.
        index: carries the effort table.
        costs: what is known about costs.
        k: hits to return.
        exact: the request asks for exact search.
        fields: the request asks for stored fields.
        filtered: the request carries a filter.
        probability: with which the answer is to be in time.
        offset: hits to skip.
    """
    estimate = _Estimate(costs, load, k, offset + k, filtered)
    rungs = _exact_rungs(estimate, index, fields, probability) if exact else _rungs(estimate, index, fields, probability)
    return next((plan for cost_ms, plan in rungs if cost_ms <= remaining_ms), None)


class Planner:
    """Plans of one generation. Costs change slowly, so a ladder is worked out once and used for a moment.

    Requests that are asked elsewhere where they are refused here are planned by ``remembered``, and not tried in vain:
    ``is_to_learn`` says which of them is done after its caller has been refused.
    """

    def __init__(self, index: Index, costs: CostsView, clock: Clock, remembered: CostsView | None = None) -> None:
        self._index = index
        self._costs = {False: costs, True: remembered or costs}
        self._clock = clock
        self._until = self._try_until = -math.inf
        self._try_at, self._learn_at = clock() + _TRY_SECONDS, clock() + _LEARN_SECONDS
        self._ladders: dict[Asked, Ladder] = {}

    def plan(self, remaining_ms: float, asked: Asked) -> SearchPlan | None:
        """The highest rung of the ladder that fits into ``remaining_ms``, or None where none does.

        Now and then the last rung is tried all the same: a cost that is never paid would be believed for as long as it is
        remembered, and every request refused meanwhile.
        """
        fits = next((plan for cost_ms, plan in self._ladder(asked).rungs if cost_ms <= remaining_ms), None)
        return self.least(asked) if fits is None and self._tries(asked) else fits

    def least(self, asked: Asked) -> SearchPlan:
        """The last rung."""
        return self._ladder(asked).rungs[-1][1]

    def worth(self, remaining_ms: float, asked: Asked, tokens: int) -> bool:
        """Whether encoding is worth beginning: what must still come fits at its median (``least_ms``), or is tried anyway."""
        encode_ms = self._costs[asked.elsewhere].cost_ms("encode", size_key(tokens), _MEDIAN, asked.load) or 0.0
        return self._ladder(asked).least_ms + encode_ms <= remaining_ms or self._tries(asked)

    def is_to_learn(self) -> bool:
        """Whether this one, refused, is to be done all the same: one in ``_LEARN_SECONDS``."""
        now = self._clock()
        if now < self._learn_at:
            return False
        self._learn_at = now + _LEARN_SECONDS
        return True

    def _tries(self, asked: Asked) -> bool:
        """True for a moment in each ``_TRY_SECONDS``; one request that began then may go on to its search."""
        if asked.elsewhere:
            return False
        now = self._clock()
        if now >= self._try_at:
            self._try_at, self._try_until = now + _TRY_SECONDS, now + _FRESH_SECONDS
        return now < self._try_until

    def _ladder(self, asked: Asked) -> Ladder:
        now = self._clock()
        if now >= self._until:  # threads that meet here work it out twice, to the same end
            self._ladders, self._until = {}, now + _FRESH_SECONDS
        ladders = self._ladders
        ladder = ladders.get(asked)
        if ladder is None:
            ladder = ladders[asked] = self._work_out(asked)
        return ladder

    def _work_out(self, asked: Asked) -> Ladder:
        costs = self._costs[asked.elsewhere]
        estimate = _Estimate(costs, asked.load, asked.k, asked.window, asked.filtered, asked.band)
        rungs = _exact_rungs if asked.exact else _rungs
        least = _least_ms(estimate, self._index, tokens=None, exact=asked.exact, probability=_MEDIAN)
        return Ladder(tuple(rungs(estimate, self._index, asked.fields, asked.probability)), least)


def least_ms(
    index: Index,
    costs: CostsView,
    load: Load,
    *,
    tokens: int | None,
    k: int,
    exact: bool,
    filtered: bool,
    probability: float = _MEDIAN,
    offset: int = 0,
) -> float:
    """What must still come until there is an answer at all: encode, filter, and the search's last rung.

    Work with less time left than its median is more likely late than not, and is better dropped before it is begun. What has
    not been observed counts nothing, so a model that knows nothing drops nothing.

    Args:
        index: carries the effort table.
        costs: what is known about costs.
        load: chooses the costs.
        tokens: of the query; None where its vector is there already.
        k: hits to return.
        exact: the request asks for exact search.
        filtered: the request carries a filter that is not compiled yet.
        probability: with which that is enough.
        offset: hits to skip.
    """
    estimate = _Estimate(costs, load, k, offset + k, filtered)
    return _least_ms(estimate, index, tokens=tokens, exact=exact, probability=probability)


def _least_ms(estimate: _Estimate, index: Index, *, tokens: int | None, exact: bool, probability: float) -> float:
    encode_ms = 0.0 if tokens is None else estimate.seen_ms("encode", size_key(tokens), probability)
    filter_ms = estimate.seen_ms("filter", WHOLE, probability) if estimate.filtered else 0.0
    effort = None if exact else _allowed(index, estimate.window)[0].effort
    search_ms = estimate.searched_ms(effort, probability) or 0.0
    return encode_ms + filter_ms + search_ms + estimate.after_ms(False, probability)


@dataclass(slots=True)
class _Estimate:
    """Costs of the parts of one search, in milliseconds. Not frozen: one is made for every request."""

    costs: CostsView
    load: Load
    k: int
    window: int
    filtered: bool
    band: Band | None = None

    def searched_ms(self, effort: int | None, probability: float) -> float | None:
        """What such a search has cost; the least of all bands where it is not known yet which one it is."""
        bands = BANDS if self.filtered and self.band is None else (self.band,)
        keys = (search_key(effort, band, self.window) for band in bands)
        costs = (self.costs.cost_ms("search", key, probability, self.load) for key in keys)
        return min((ms for ms in costs if ms is not None), default=None)

    def seen_ms(self, stage: CostStage, key: str, probability: float) -> float:
        return self.costs.cost_ms(stage, key, probability, self.load) or 0.0

    def search_ms(self, row: Effort, probability: float) -> float:
        seen = self.searched_ms(row.effort, probability)
        if seen is not None:
            return seen
        speed = self.costs.speed(self.load)
        return row.p99_ms if speed is None else row.p99_ms * speed

    def least_search_ms(self, row: Effort) -> float:
        """The median."""
        seen = self.searched_ms(row.effort, _MEDIAN)
        return row.p50_ms if seen is None else seen

    def after_ms(self, fields: bool, probability: float) -> float:
        """Fetch, render and reply."""
        key = fetch_key(self.k, fields)
        fetch = self.costs.cost_ms("fetch", key, probability, self.load)
        if fetch is None:
            fetch = FETCH_MS + self.k * FETCH_MS_PER_HIT if fields else 0.0
        return fetch + self.seen_ms("render", key, probability) + self.seen_ms("reply", WHOLE, probability)


def _allowed(index: Index, window: int) -> list[Effort]:
    """Rows up to the default effort that are not the same search as the one after them."""
    rows = [row for row in index.efforts if row.effort <= index.default_effort] or [index.efforts[0]]
    narrow = sum(row.effort <= window for row in rows) if isinstance(index, HnswIndex) else 0
    return rows[max(0, narrow - 1) :]


def _rungs(estimate: _Estimate, index: Index, fields: bool, probability: float) -> Iterator[tuple[float, SearchPlan]]:
    allowed = _allowed(index, estimate.window)
    after_ms = estimate.after_ms(fields, probability)
    for row in reversed(allowed):
        causes: tuple[Cause, ...] = ("deadline_effort",) if row is not allowed[-1] else ()
        yield estimate.search_ms(row, probability) + after_ms, _plan(row, fields, causes)
    least, causes = allowed[0], ("deadline_effort",) if len(allowed) > 1 else ()
    last = _plan(least, with_fields=False, causes=(*causes, "deadline_fields") if fields else causes)
    yield estimate.least_search_ms(least) + estimate.after_ms(False, _MEDIAN), last


def _exact_rungs(estimate: _Estimate, index: Index, fields: bool, probability: float) -> Iterator[tuple[float, SearchPlan]]:
    effort = index.default_effort
    whole = SearchPlan(effort, exact=True, with_fields=fields, causes=(), expected_recall=1.0)
    yield (estimate.searched_ms(None, probability) or 0.0) + estimate.after_ms(fields, probability), whole
    causes: tuple[Cause, ...] = ("deadline_fields",) if fields else ()
    last = SearchPlan(effort, exact=True, with_fields=False, causes=causes, expected_recall=1.0)
    yield (estimate.searched_ms(None, _MEDIAN) or 0.0) + estimate.after_ms(False, _MEDIAN), last


def _plan(row: Effort, with_fields: bool, causes: tuple[Cause, ...]) -> SearchPlan:
    return SearchPlan(row.effort, exact=False, with_fields=with_fields, causes=causes, expected_recall=row.recall_at_10)
