"""Means of the latest values, with honest intervals: bounded in memory, and never narrower than what was seen allows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

_Z = 1.959964
"""Of a 95% interval."""


class Estimate(NamedTuple):
    """A mean with its 95% interval, of so many values."""

    mean: float
    low: float
    high: float
    size: int


Interval = Callable[[Sequence[float]], tuple[float, float]]


def wilson(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of at least one value between 0 and 1.

    Wilson's interval of as many trials as there are values. Values inside 0 to 1 vary at most as much as successes and failures
    of the same mean, so it is never too narrow; and all ones leave a doubt, which a bootstrap would not have.
    """
    return wilson_of(math.fsum(values) / len(values), len(values))


def wilson_of(mean: float, n: float) -> tuple[float, float]:
    """Of the mean of so many trials."""
    middle = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def normal(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of any values, by their variance; of a single one nothing is known but that cosines end at -1 and 1."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return -1.0, 1.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = _Z * math.sqrt(variance / n)
    return mean - half, mean + half


class Window:
    """The latest ``size`` values. Added to by one thread; ``estimate`` may be asked for by another."""

    def __init__(self, size: int, interval: Interval) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._interval = interval

    def add(self, value: float) -> None:
        """Forget the oldest for it, where the window is full."""
        self._values.append(value)

    def estimate(self) -> Estimate | None:
        """Of what is in the window; None where that is nothing."""
        values = self._values.copy()  # in one step: a deque that grows must not be walked through
        if not values:
            return None
        low, high = self._interval(values)
        return Estimate(math.fsum(values) / len(values), low, high, len(values))
