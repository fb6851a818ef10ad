"""What the ways of searching cost on this machine: measured when an index is opened, and interpolated."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snapshot.selection import Selection

FEW = 64
_REPEATS = 3
"""The fastest counts: a busy neighbour makes the others slower, never faster."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost in milliseconds by size.

    Attributes:
        sizes: what was measured, ascending.
        costs_ms: of each size, never falling.
    """

    sizes: tuple[float, ...]
    costs_ms: tuple[float, ...]

    def at(self, size: float) -> float:
        """Linear between two measured sizes, proportional beyond the largest, and below the smallest as that."""
        right = bisect_left(self.sizes, size)
        if right == len(self.sizes):
            return self.costs_ms[-1] * size / self.sizes[-1]
        if right == 0:
            return self.costs_ms[0]
        low, high = self.sizes[right - 1 : right + 1]
        below, above = self.costs_ms[right - 1 : right + 1]
        return below + (above - below) * (size - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one index.

    Attributes:
        exact: comparing with so many rows, scattered over the index.
        all_rows: approximate search at an effort where every row is eligible.
        few_rows: the same where one row in ``FEW`` is; a graph visits the others all the same.
    """

    exact: Curve
    all_rows: Curve
    few_rows: Curve

    def approximate_ms(self, effort: float, selection: Selection) -> float:
        """Approximate search at an effort, among selected rows."""
        few = self.few_rows.at(effort)
        return few + (self.all_rows.at(effort) - few) * selection.count / selection.total


def measure(sizes: Sequence[int], search: Callable[[int], object]) -> Curve:
    """The curve of ``search`` over distinct ascending ``sizes``."""
    costs_ms: list[float] = []
    for size in sizes:
        fastest_ms = min(_timed(search, size) for _ in range(_REPEATS))
        costs_ms.append(max(fastest_ms, *costs_ms[-1:]) if costs_ms else fastest_ms)
    return Curve(tuple(sizes), tuple(costs_ms))


def _timed(search: Callable[[int], object], size: int) -> float:
    begun = time.perf_counter()
    search(size)
    return (time.perf_counter() - begun) * 1000
