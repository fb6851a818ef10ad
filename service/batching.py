"""Which queries go through the graph together: those of the same length, where measuring says that company pays.

Padding is computed like tokens are, so a batch of mixed lengths costs more than its parts. A batch of one length costs
less, because the weights are read from memory once for all of it: how much less depends on graph, length and CPU.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

LENGTHS = (4, 8, 16, 32, 64)
"""Tokens at which batches are measured; between two of them the longer one counts."""
SIZES = (2, 4, 8)
MIN_GAIN = 1.15
"""Less is within the noise of a warm-up, and a batch makes its first query wait for its last."""
_REPEATS = 5
_MOST_TOKENS = 128
"""Of one call: others wait while it runs."""

Run = Callable[[int, int], None]
"""Sends so many queries of so many tokens through the graph."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What was measured for queries of up to ``tokens`` tokens.

    Attributes:
        rows: queries worth one call; 1 where company does not pay.
        gain: time per query alone over its time in such a call; 1.0 for one row.
    """

    tokens: int
    rows: int
    gain: float


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Sizes by ascending length; none: every query goes alone."""

    sizes: tuple[BatchSize, ...] = ()

    def rows(self, length: int) -> int:
        """Most queries of ``length`` tokens for one call."""
        return next((size.rows for size in self.sizes if length <= size.tokens), 1)


def measure(run: Run, longest: int) -> BatchPlan:
    """Measure what batches gain, for queries of up to ``longest`` tokens."""
    lengths = [length for length in LENGTHS if length <= longest and 2 * length <= _MOST_TOKENS]
    return BatchPlan(tuple(_best(run, length) for length in lengths))


def _best(run: Run, length: int) -> BatchSize:
    sizes = (1, *(size for size in SIZES if size * length <= _MOST_TOKENS))
    seconds: dict[int, list[float]] = defaultdict(list)
    for _ in range(
        _REPEATS
    ):  # interleaved, so that a noisy moment falls on all of them; of each the fastest, which had least of it
        for size in sizes:
            begun = time.perf_counter()
            run(size, length)
            seconds[size].append((time.perf_counter() - begun) / size)
    each = {size: min(values) for size, values in seconds.items()}
    best = min(sizes, key=lambda size: each[size])
    gain = each[1] / each[best]
    return BatchSize(length, best, round(gain, 2)) if gain >= MIN_GAIN else BatchSize(length, 1, 1.0)


def batches(lengths: Sequence[int], rows: Callable[[int], int]) -> Iterator[list[int]]:
    """Positions of queries that go together: of one length, at most ``rows(length)`` of them."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        by_length[length].append(position)
    for length, positions in by_length.items():
        size = rows(length)
        for start in range(0, len(positions), size):
            yield positions[start : start + size]
