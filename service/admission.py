"""The door: who comes in, who is told to come back, and when. Counting (Limiter) is apart from the number (Limit).

Concurrency is limited, not rate: by Little's law it is the product of rate and latency, so one number holds
whatever a request costs (Netflix's concurrency-limits makes the argument and the same cut).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from service.deadline import Clock
from service.errors import DrainingError, OverloadedError
from service.limits import Limit, Outcome

_WEIGHT = 0.1
"""Of the newest sample in the moving average: it follows a change within some twenty requests."""
_FIRST_GUESS_MS = 5.0
_ENOUGH = 20
"""Samples before a wait is predicted from them."""
_STANDING_SHARE, _BURST_SHARE = 0.55, 0.85
"""Of what is left may be spent waiting. The wait that is predicted is a mean, and answers are to be in time at the 99th
percentile; but a burst drains before it makes anybody late, and is not to be refused for the queue that it makes (the good
queue and the bad queue of CoDel: Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012)."""
_BURST_BUDGETS = 2.0
"""A queue that has outlasted two budgets is no burst."""
_FRESH_S = 10.0
"""For so long what is known of a lane's items is held against a request for its own work; then one comes in to be measured."""
_LEAST_RETRY_MS = 1.0
_JITTER = 0.5
"""Retries are spread over 1 ± this, so that those refused together do not come back together."""


class Lane(StrEnum):
    """Kinds of requests that must not starve each other."""

    SEARCH = "search"
    EMBED = "embed"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the limit that are kept for a lane, and that it cannot exceed unless a thread is free; searches have the rest,
    and what is unused.
    """

    embed: float = 0.25
    batch: float = 0.25


class Token:
    """The right to be worked on; given back once."""

    __slots__ = ("_budget_ms", "_items", "_lane", "_limiter")

    def __init__(self, limiter: Limiter, lane: Lane, items: int, budget_ms: float) -> None:
        self._limiter: Limiter | None = limiter
        self._lane = lane
        self._items = items
        self._budget_ms = budget_ms

    def release(self, service_ms: float, queue_ms: float, outcome: Outcome) -> None:
        """Give the token back.

        Args:
            service_ms: time that threads worked on it; what a batch waited between its items is not work.
            queue_ms: from the token until a thread took it up; reading the body, before that, is no queue of ours.
            outcome: what became of the request.
        """
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.released(self._lane, self._items, service_ms, queue_ms, self._budget_ms, outcome)


class _Traffic:
    """What is in flight in a lane, what an item of it takes, and when that was last seen."""

    __slots__ = ("item_ms", "items", "requests", "samples", "seen")

    def __init__(self) -> None:
        self.requests = self.items = self.samples = 0
        self.item_ms = _FIRST_GUESS_MS
        self.seen = -math.inf

    def learn(self, item_ms: float) -> None:
        """The first samples count alike: what was guessed does not linger."""
        self.samples += 1
        self.item_ms += max(_WEIGHT, 1 / self.samples) * (item_ms - self.item_ms)


class Limiter:
    """Counts requests in flight and refuses those beyond the limit. Used on the event loop only."""

    def __init__(
        self,
        limit: Limit,
        workers: int,
        random: Callable[[], float],
        shares: Shares | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            limit: says how many.
            workers: threads that work at a time.
            random: uniform on [0, 1).
            shares: of the lanes.
            clock: monotonic seconds.
        """
        self._clock = clock
        self._queued_since: float | None = None
        self._limit = limit
        self._workers = workers
        self._random = random
        self._shares = shares or Shares()
        self._traffic = {lane: _Traffic() for lane in Lane}
        self._each = tuple(self._traffic.values())
        self.in_flight = 0
        self.draining = False

    @property
    def limit(self) -> int:
        return self._limit.value

    def depth(self, lane: Lane) -> int:
        """Requests of ``lane`` in flight."""
        return self._traffic[lane].requests

    def queued_ms(self) -> float:
        """How long ago there was last a free thread; 0 where there is one."""
        return 0.0 if self._queued_since is None else (self._clock() - self._queued_since) * 1000.0

    def patience_ms(self, lane: Lane, left_ms: float, budget_ms: float) -> float:
        """How long a request may wait, for ``acquire``, of whose ``budget_ms`` there are ``left_ms``.

        Never below nothing: where a thread is free there is no wait, and less effort may fit where the usual does not.
        """
        share = _BURST_SHARE if self.queued_ms() <= _BURST_BUDGETS * budget_ms else _STANDING_SHARE
        traffic = self._traffic[lane]
        return max(0.0, share * left_ms - (traffic.item_ms if traffic.samples >= _ENOUGH else 0.0))

    def share(self, lane: Lane) -> int:
        """Requests of ``lane`` that are let in whatever the other lanes do; at least 1."""
        embed, batch = (max(1, int(self.limit * share)) for share in (self._shares.embed, self._shares.batch))
        return {Lane.SEARCH: max(1, self.limit - embed - batch), Lane.EMBED: embed, Lane.BATCH: batch}[lane]

    def acquire(self, lane: Lane = Lane.SEARCH, items: int = 1, budget_ms: float = math.inf) -> Token:
        """Come in.

        While a lane uses what the others left unused, these still get their shares: for as long as that takes to even out,
        there is more in flight than the limit, by the shares of embeddings and batches, or by the threads, at most.

        Args:
            lane: whose share it counts against.
            items: searches or texts of the request, worked on one after the other.
            budget_ms: how long it may wait for its last item to be begun.

        Raises:
            DrainingError: the service is shutting down.
            OverloadedError: the limit is reached, or no thread is free and the wait would outlast the budget.
        """
        self.knock(lane, items, budget_ms)
        traffic = self._traffic[lane]
        self.in_flight += 1
        if self.in_flight == self._workers:
            self._queued_since = self._clock()
        traffic.requests += 1
        traffic.items += items
        return Token(self, lane, items, budget_ms)

    def knock(self, lane: Lane, items: int = 1, budget_ms: float = math.inf) -> None:
        """Whether there is any point in sending more of a request; raises as ``acquire`` does, and takes nothing."""
        if self.draining:
            raise DrainingError("this instance is shutting down; send the request to another one")
        traffic = self._traffic[lane]
        if self._full(lane, traffic):
            self._limit.used_up()
            raise self._refused(lane, f"{self.in_flight} requests are in flight, {traffic.requests} of them {lane}, the limit")
        wait_ms = self._predicted_ms(lane, items)
        if wait_ms > budget_ms:
            raise self._refused(lane, f"it would wait about {wait_ms:.0f} ms, longer than its budget allows")

    def wait_ms(self, lane: Lane = Lane.SEARCH) -> float:
        """How long what is in flight before a request of ``lane`` takes to be worked off, jittered."""
        return self._work_ms(lane) / self._workers * (1 - _JITTER + 2 * _JITTER * self._random())

    def released(self, lane: Lane, items: int, service_ms: float, queue_ms: float, budget_ms: float, outcome: Outcome) -> None:
        """Called by tokens only."""
        traffic = self._traffic[lane]
        self._limit.observe(service_ms / items, queue_ms, budget_ms, self.in_flight, outcome)
        self.in_flight -= 1
        if self.in_flight < self._workers:
            self._queued_since = None
        traffic.requests -= 1
        traffic.items -= items
        if outcome is Outcome.DONE or (outcome is Outcome.DROPPED and items > 1):
            traffic.seen = self._clock()
            if outcome is Outcome.DONE or service_ms / items > traffic.item_ms:  # what was not finished took that at least
                traffic.learn(service_ms / items)

    def drain(self) -> None:
        """Let nobody in from now on."""
        self.draining = True

    def _full(self, lane: Lane, traffic: _Traffic) -> bool:
        if lane is Lane.SEARCH and self.in_flight < self.limit:
            return False
        return traffic.requests >= self.share(lane) and not self._spare()

    def _spare(self) -> bool:
        """Whether a thread is free, and a search would still find its place if somebody else took it."""
        return self.in_flight < min(self._workers, self.limit - 1)

    def _work_ms(self, lane: Lane) -> float:
        """Work before a newcomer: all of its lane's, and of the others what threads may be at, since lanes share the threads."""
        own = self._traffic[lane]
        work_ms = own.items * own.item_ms
        for traffic in self._each:
            if traffic is not own:
                work_ms += min(traffic.requests, self._workers) * traffic.item_ms
        return work_ms

    def _predicted_ms(self, lane: Lane, items: int) -> float:
        """How long the last item would wait; 0 until enough was measured, and where a thread is free.

        Whoever comes then is let in and measured, whatever it asks for: its own work makes nobody else late, and its deadline
        ends it.
        """
        traffic = self._traffic[lane]
        waiting = self.in_flight - self._workers + 1
        if traffic.samples < _ENOUGH or waiting <= 0:
            return 0.0
        return self._own_ms(traffic, items) + self._work_ms(lane) / self._workers * waiting / self.in_flight

    def _own_ms(self, traffic: _Traffic, items: int) -> float:
        """Its items before its last one; 0 where that is old news, and nobody of its lane is at work to renew it."""
        if items == 1 or not (traffic.requests or self._clock() - traffic.seen < _FRESH_S):
            return 0.0
        return (items - 1) * traffic.item_ms

    def _refused(self, lane: Lane, why: str) -> OverloadedError:
        wait_ms = max(_LEAST_RETRY_MS, self.wait_ms(lane))
        return OverloadedError(f"{why}; retry in {math.ceil(wait_ms)} ms", wait_ms)
