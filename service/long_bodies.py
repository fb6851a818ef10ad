"""Long bodies are parsed beside the event loop, one at a time: a megabyte of small items takes as long as many searches.

Parsing holds the interpreter's lock, so that the loop waits for the one body that is being parsed; but it has a turn after
each, and half of all time, however many there are. What makes a body slow to parse is how many objects and lists it has, ten
times as slow as its bytes, so they are counted first.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from service.deadline import Clock
from service.errors import FieldError, InvalidRequestError, OverloadedError
from snapshot.filters import MAX_BRACKETS

T = TypeVar("T")

LONG_BYTES = 64 * 1024
"""Beyond which a body is long: as long as a search may be, which takes half a millisecond at worst."""
MOST_LONG = 32
"""That wait or are being parsed; beyond: 429."""
_WEIGHT = 0.1
"""Of the newest in the moving average of how long one takes, with the rest after it."""


_BRACKETS_PER_ITEM = 64
"""Objects and lists of an item of a batch, on average, beyond those of one filter as large as filters may be: 30 conditions."""


def most_brackets(items: int) -> int:
    """Objects and lists that a body of so many items may have."""
    return MAX_BRACKETS + _BRACKETS_PER_ITEM * items


def check_brackets(raw: bytes, most: int) -> None:
    """InvalidRequestError where JSON that is not parsed yet has more than ``most`` objects and lists."""
    if len(raw) <= most or raw.count(b"[") + raw.count(b"{") <= most:  # those in texts too: much the cheaper count
        return
    found = _brackets(raw)
    if found > most:
        message = f"{found} objects and lists; at most {most}: send fewer items, or smaller filters"
        raise InvalidRequestError(FieldError("body", message))


def _brackets(raw: bytes) -> int:
    """Those that are in no text: between them and the begin is an even number of quotes, escaped ones apart."""
    bare = np.frombuffer(raw.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(bare == ord('"'), dtype=np.uint8) % 2 == 0
    return int(np.count_nonzero(((bare == ord("[")) | (bare == ord("{"))) & outside))


def _always() -> None:
    """Parse, whoever waits, and however long."""


class LongBodies:
    """A line of bodies to be parsed. Used on the event loop only."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._turn = asyncio.Semaphore(1)
        self._here = 0
        self._mean_ms = 1.0
        self._next = clock()
        self._thread = ThreadPoolExecutor(1, "long-body")  # not asyncio's, whose threads a disk that stands still may hold

    async def parse(self, parse: Callable[[], T], check: Callable[[], object] = _always) -> T:
        """Call ``parse`` on another thread, in turn, and give what it gives; OverloadedError where too many wait already.

        ``check`` is asked when the turn has come, and raises where there is no point in parsing any more.
        """
        if self._here >= MOST_LONG:
            wait_ms = self._here * self._mean_ms
            raise OverloadedError(f"{self._here} long bodies wait to be parsed; retry in {math.ceil(wait_ms)} ms", wait_ms)
        self._here += 1
        try:
            async with self._turn:
                await asyncio.sleep(max(0.0, self._next - self._clock()))
                check()
                began = self._clock()
                try:
                    return await asyncio.get_running_loop().run_in_executor(self._thread, parse)
                finally:
                    ended = self._clock()
                    self._next = ended + (ended - began)
                    self._mean_ms += _WEIGHT * ((self._next - began) * 1000 - self._mean_ms)
        finally:
            self._here -= 1

    def close(self) -> None:
        """Let go of the thread, once it is done with what it has in hand."""
        self._thread.shutdown(wait=False)
