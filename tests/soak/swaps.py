"""Swaps under a load that wants seven tenths of the capacity: steady windows and windows with a swap, by turns."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offline.progress import say
from snapshot.registry import Registry
from tests.bench.client import Sockets
from tests.bench.figures import Row, of_latencies, quantiles
from tests.bench.loads import closed_loop
from tests.bench.session import search
from tests.live import Live, start, until
from tests.soak.load import Order, Seen, loaded
from tests.soak.memory import held
from tests.soak.trio import Trio

SHARE = 0.7
"""Of the capacity, measured first."""
STEADY, SWAPPING, EACH, RUN = "steady", "swapping", "each swap", "the run"
LONG_LAG_SECONDS = 0.005
_OFTEN = 256
_CACHE_BYTES = 4 << 20
"""Of query vectors: full before memory is first looked at, so that nothing grows afterwards but what should not."""
_CAPACITY_CONNECTIONS = 8
_BESIDE_SEED = 1_000_000
_PROBES_PER_SECOND = 200.0
_SETTLE_SECONDS = 1.0
"""After a swap, until what was replaced is closed and the next steady window begins."""
_SWAP_SECONDS = 300.0
_LOOK_SECONDS = 0.1
_MOST_SECONDS_A_SWAP = 250.0
"""With its steady window; a load is made for so long beforehand."""


@dataclass(frozen=True)
class Pace:
    """How many swaps, and how long windows are at least."""

    swaps: int
    swaps_a_round: int
    window_seconds: float
    capacity_seconds: float


@dataclass
class _Windows:
    """When what was the case, by ``time.monotonic``; one of each kind a swap."""

    steady: list[tuple[float, float]] = field(default_factory=list)
    swapping: list[tuple[float, float]] = field(default_factory=list)
    activated: list[tuple[str, float]] = field(default_factory=list)

    def mask(self, seen: Seen, kind: str) -> np.ndarray:
        begins, ends = zip(*(self.steady if kind == STEADY else self.swapping), strict=True)
        return seen.within(begins, ends)


def measure(group: str, trio: Trio, pace: Pace, folder: Path) -> list[Row]:
    """One service, swapped as often as ``pace`` says."""
    with trio.registry() as registry:
        live = start(folder, registry.root, "--query-cache-bytes", str(_CACHE_BYTES))
        try:
            until(live, live.ready, "ready")
            return list(_Soak(group, trio, pace, folder, registry, live).run())
        finally:
            live.stop()


@dataclass
class _Soak:
    """A run under way."""

    group: str
    trio: Trio
    pace: Pace
    folder: Path
    registry: Registry
    live: Live
    swapped: int = 0
    window_seconds: float = 0.0

    def run(self) -> Iterator[Row]:
        known = self._known()
        capacity = self._capacity(known)
        say(f"{self.group}: {capacity:.0f} searches a second at most, {SHARE * capacity:.0f} are sent")
        yield Row(self.group, "service", RUN, 0, {"capacity_per_second": capacity, "sent_per_second": SHARE * capacity})
        self.window_seconds = self.pace.window_seconds
        wanted = itertools.cycle([*self.trio.ids[1:], self.trio.ids[0]])
        number = 0
        while self.swapped < self.pace.swaps:
            count = min(self.pace.swaps_a_round, self.pace.swaps - self.swapped)
            order = self._order(known, SHARE * capacity, number, (count + 1) * _MOST_SECONDS_A_SWAP)
            yield from self._round(number, order, list(itertools.islice(wanted, count)))
            number += 1

    def _known(self) -> dict[str, list[str]]:
        """What the queries find that are asked again and again, at rest."""
        known = {}
        for query in self.trio.queries[:_OFTEN]:
            status, answer = self.live.get("/search", {"query": query, "k": 10})
            if status != 200 or answer["degraded"] is not None:
                raise RuntimeError(f"a search at rest was answered {status}: {str(answer)[:300]}")
            known[query] = [hit["id"] for hit in answer["hits"]]
        return known

    def _order(self, known: dict[str, list[str]], per_second: float, seed: int, most_seconds: float) -> Order:
        return Order(
            self.live.port,
            per_second,
            _PROBES_PER_SECOND,
            most_seconds,
            list(known),
            self.trio.queries[_OFTEN:] or self.trio.queries,
            seed,
            self.trio.marks,
            self.trio.column,
            known,
        )

    def _capacity(self, known: dict[str, list[str]]) -> float:
        """Answers a second in a closed loop, the second time; beside the probes, which take their part of the cores later too."""
        most = 0.0
        with loaded(self._order(known, 1.0, _BESIDE_SEED, _MOST_SECONDS_A_SWAP), self.folder):
            for seed in (-2, -1):
                requests = [search(query) for query in self._order(known, 2000, seed, self.pace.capacity_seconds).queries()]
                with Sockets(self.live.port, _CAPACITY_CONNECTIONS) as wire:
                    load = closed_loop(wire, _CAPACITY_CONNECTIONS, requests, self.pace.capacity_seconds)
                most = sum(outcome.status == 200 for outcome in load.outcomes) / load.seconds
        return most

    def _round(self, number: int, order: Order, wanted: list[str]) -> Iterator[Row]:
        windows, kept = _Windows(), []
        before = _lags(self.live)
        with loaded(order, self.folder) as loading:
            time.sleep(_SETTLE_SECONDS)
            for snapshot_id in wanted:
                windows.steady.append(self._steady())
                windows.swapping.append(self._swap(snapshot_id, windows))
                kept.append(self._held())
            windows.steady.append(self._steady())
        if loading.seen.due.max() < windows.steady[-1][0]:
            raise RuntimeError(f"the load ended before the round: {len(wanted)} swaps took more than {order.most_seconds:g} s")
        first = self.swapped - len(kept) + 1
        for place, (now, pauses) in enumerate(zip(kept, _pauses(loading.seen, windows), strict=True)):
            yield Row(self.group, "service", EACH, first + place, now | pauses)
        yield from _windows_rows(self.group, number, loading.seen, windows)
        lags = {kind: after - before[kind] for kind, after in _lags(self.live).items()}
        yield Row(
            self.group, "service", RUN, number, {"long_lags_while_loading": lags["long"], "lags_while_loading": lags["all"]}
        )
        took = _serving_seconds(loading.seen, windows)
        say(f"{self.group}: {self.swapped} of {self.pace.swaps} swaps, {statistics.median(took):.2f} s until they served")

    def _steady(self) -> tuple[float, float]:
        """As long as a swap takes, so that both kinds of windows weigh the same."""
        begun = time.monotonic()
        time.sleep(max(self.pace.window_seconds, self.window_seconds))
        return begun, time.monotonic()

    def _swap(self, snapshot_id: str, windows: _Windows) -> tuple[float, float]:
        begun = time.monotonic()
        self.registry.activate(snapshot_id, "soak", who="tests")
        windows.activated.append((snapshot_id, begun))
        wait_until_serving(self.live, snapshot_id, _LOOK_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        self.swapped += 1
        self.window_seconds = time.monotonic() - begun
        return begun, time.monotonic()

    def _held(self) -> dict[str, float]:
        now = held(self.live.process.pid)
        return {
            "resident_mb": now.resident / 1e6,
            "anonymous_mb": now.anonymous / 1e6,
            "files": float(now.files),
            "threads": float(now.threads),
        }


def _lags(live: Live) -> dict[str, float]:
    """How often the service itself found its event loop late while it loaded a snapshot, and how often it looked."""
    found, lag = live.metrics(), "event_loop_lag_seconds"
    within, looked = found[f'{lag}_bucket{{le="{LONG_LAG_SECONDS}",swap="running"}}'], found[f'{lag}_count{{swap="running"}}']
    return {"all": looked, "long": looked - within}


def wait_until_serving(live: Live, snapshot_id: str, look_seconds: float) -> float:
    """When it served, by ``time.monotonic``; RuntimeError where it is refused or takes minutes."""
    end = time.monotonic() + _SWAP_SECONDS
    while time.monotonic() < end:
        info = live.get("/info")[1]
        if info["serving"] == snapshot_id:
            return time.monotonic()
        failure = info["last_error"]
        if failure is not None and failure["snapshot"] == snapshot_id:
            raise RuntimeError(f"{snapshot_id} was refused: {failure['code']}: {failure['reason']}")
        time.sleep(look_seconds)
    raise RuntimeError(f"{snapshot_id} did not serve within {_SWAP_SECONDS:g} s")


def _pauses(seen: Seen, windows: _Windows) -> Iterator[dict[str, float]]:
    """Of each swap: the longest that /livez took in its window, and in the steady one before it."""
    for steady, swapping in zip(windows.steady, windows.swapping, strict=False):  # there is one more steady window
        yield {"pause_ms": _pause_ms(seen, *swapping), "steady_pause_ms": _pause_ms(seen, *steady)}


def _pause_ms(seen: Seen, begin: float, end: float) -> float:
    return float((seen.finished - seen.sent)[seen.is_probe & seen.within([begin], [end])].max() * 1e3)


def _windows_rows(group: str, number: int, seen: Seen, windows: _Windows) -> Iterator[Row]:
    searches = ~seen.is_probe
    for kind in (STEADY, SWAPPING):
        inside = windows.mask(seen, kind)
        answered = inside & searches & (seen.status == 200)
        latencies = (seen.finished - seen.due)[answered] * 1e3
        figures = {
            **of_latencies(latencies),
            "accepted_per_second": len(latencies) / sum(end - begin for begin, end in getattr(windows, kind)),
        }
        yield Row(group, "service", kind, number, figures, quantiles(latencies))
    yield Row(group, "service", RUN, number, _whole(seen, windows))


def _whole(seen: Seen, windows: _Windows) -> dict[str, float]:
    """Of all that was sent, between the windows too."""
    searches = ~seen.is_probe
    took = _serving_seconds(seen, windows)
    return {
        "searches": float(searches.sum()),
        "failed_requests": float((seen.status != 200).sum()),
        "mixed_answers": float(seen.mixed.sum()),
        "untold_answers": float(seen.untold.sum()),
        "client_lag_p99_ms": float(np.percentile((seen.sent - seen.due)[searches], 99) * 1e3),
        "under_load_serving_seconds": statistics.median(took),
        **{f"status_{status}": float((seen.status == status).sum()) for status in sorted(set(seen.status.tolist()) - {200})},
    }


def _serving_seconds(seen: Seen, windows: _Windows) -> list[float]:
    """From each activation to the first answer by what was activated."""
    first = [(seen.first_from(snapshot_id, since), since) for snapshot_id, since in windows.activated]
    return [at - since for at, since in first if at is not None]
