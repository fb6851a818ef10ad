from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from manual_clock import ManualClock

from service.loop_lag import LoopLag


class LateLoop:
    """An event loop that runs what is due when it is told to."""

    def __init__(self) -> None:
        self.time = ManualClock()
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.due.append((when, callback))

    def run_late(self, seconds: float) -> None:
        ((when, callback),) = self.due
        self.due = []
        self.time.now = when + seconds
        callback()


def test_it_tells_by_how_much_the_loop_was_late_each_time() -> None:
    lags: list[float] = []
    loop = LateLoop()
    LoopLag(lags.append).start(loop)  # type: ignore[arg-type]
    for seconds in (0.0, 0.003, 0.5, 0.0):
        loop.run_late(seconds)
    assert lags == pytest.approx([0.0, 0.003, 0.5, 0.0])


def test_a_pause_does_not_make_what_comes_after_it_late() -> None:
    lags: list[float] = []
    loop = LateLoop()
    LoopLag(lags.append).start(loop)  # type: ignore[arg-type]
    loop.run_late(10.0)
    assert loop.due[0][0] > loop.time()


def test_on_a_real_loop_it_goes_on_until_the_loop_ends() -> None:
    lags: list[float] = []

    async def serve() -> None:
        enough = asyncio.Event()
        LoopLag(lambda lag: (lags.append(lag), enough.set() if len(lags) == 3 else None)).start(asyncio.get_running_loop())
        await asyncio.wait_for(enough.wait(), 10)

    asyncio.run(serve())
    assert all(lag >= 0 for lag in lags)
