"""How sure a mean over queries is: percentile bootstrap over queries (Efron 1979; Sakai, SIGIR 2006 for retrieval).

Everything that is compared is measured on the same queries, so differences and ratios resample *queries*: both
systems keep the values they had on each drawn query (a paired bootstrap), which takes the queries' own difficulty
out of the interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PERCENTILES = (2.5, 97.5)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def mean_interval(values: Values, resamples: int, seed: int) -> Interval:
    """The mean of ``values`` (float64[q], one per query).

    Raises:
        ValueError: there are no values.
    """
    means = _resampled_means(values[:, None], resamples, seed)[:, 0]
    return _interval(float(values.mean()), means)


def difference_interval(first: Values, second: Values, resamples: int, seed: int) -> Interval:
    """Mean of ``first - second`` (each float64[q], aligned by query): the paired difference."""
    return mean_interval(first - second, resamples, seed)


def ratio_interval(numerator: Values, denominator: Values, resamples: int, seed: int) -> Interval | None:
    """Mean of ``numerator`` over mean of ``denominator`` (each float64[q], aligned by query).

    None where the denominator's mean is 0. Resamples whose denominator is 0 have no ratio and are left out.
    """
    if denominator.mean() == 0.0:
        return None
    means = _resampled_means(np.stack([numerator, denominator], axis=1), resamples, seed)
    means = means[means[:, 1] > 0.0]
    ratio = float(numerator.mean() / denominator.mean())
    return _interval(ratio, means[:, 0] / means[:, 1]) if len(means) else Interval(ratio, ratio, ratio)


def _resampled_means(columns: Values, resamples: int, seed: int) -> Values:
    """Means float64[resamples, c] of ``columns`` (float64[q, c]); a draw takes whole rows, so columns stay paired."""
    count = len(columns)
    if count == 0:
        raise ValueError("a bootstrap needs at least one query")
    random = np.random.default_rng(seed)
    return np.stack([columns[random.integers(0, count, count)].mean(axis=0) for _ in range(resamples)])


def _interval(estimate: float, means: Values) -> Interval:
    low, high = np.percentile(means, _PERCENTILES)
    return Interval(estimate, float(low), float(high))
