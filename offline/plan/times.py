"""How long one request takes when nothing waits: a distribution that was measured, or one with a formula to check against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Samples = np.ndarray[tuple[int], np.dtype[np.float64]]
_STEPS = 20_000
"""Of the unit interval, where a mean is taken over it."""


class Times(Protocol):
    """A distribution of milliseconds."""

    def at(self, shares: Samples) -> Samples:
        """The quantiles float64[n], in milliseconds, at ``shares`` float64[n] in [0, 1)."""

    def mean_ms(self) -> float: ...


@dataclass(frozen=True)
class Measured:
    """Quantiles that were measured, with straight lines between them.

    Attributes:
        shares: in [0, 1], ascending, from 0 to 1.
        quantiles_ms: at ``shares``.
    """

    shares: tuple[float, ...]
    quantiles_ms: tuple[float, ...]

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Measured:
        """Of single times, at a hundred shares."""
        shares = np.linspace(0.0, 1.0, 101)
        found = np.quantile(np.asarray(samples_ms, np.float64), shares)
        return cls(tuple(shares.tolist()), tuple(found.tolist()))

    def at(self, shares: Samples) -> Samples:
        return np.interp(shares, self.shares, self.quantiles_ms)

    def mean_ms(self) -> float:
        widths, heights = np.diff(self.shares), np.asarray(self.quantiles_ms)
        return float(np.sum(widths * (heights[1:] + heights[:-1]) / 2))

    def with_mean(self, mean_ms: float) -> Measured:
        """The same shape, longer or shorter."""
        factor = mean_ms / self.mean_ms()
        return Measured(self.shares, tuple(factor * each for each in self.quantiles_ms))

    def quantile_ms(self, share: float) -> float:
        return float(np.interp(share, self.shares, self.quantiles_ms))


@dataclass(frozen=True)
class Fixed:
    """Always the same: the D of M/D/1."""

    milliseconds: float

    def at(self, shares: Samples) -> Samples:
        return np.full(len(shares), self.milliseconds)

    def mean_ms(self) -> float:
        return self.milliseconds


@dataclass(frozen=True)
class Exponential:
    """Without memory: the second M of M/M/c."""

    milliseconds: float

    def at(self, shares: Samples) -> Samples:
        return -self.milliseconds * np.log1p(-shares)

    def mean_ms(self) -> float:
        return self.milliseconds


def slowest_over_mean(times: Measured, parts: int) -> float:
    """The mean of the slowest of ``parts`` independent times over the mean of one: what waiting for all of them costs.

    Dean and Barroso, "The Tail at Scale", CACM 2013: the slowest of n is below x with the probability F(x)**n.
    """
    middles = (np.arange(_STEPS) + 0.5) / _STEPS
    return float(np.mean(times.at(middles ** (1.0 / parts)))) / times.mean_ms()


def p99_over_mean(times: Measured, parts: int = 1) -> float:
    """The 99th percentile of the slowest of ``parts`` over the mean of one."""
    return times.quantile_ms(math.pow(0.99, 1.0 / parts)) / times.mean_ms()
