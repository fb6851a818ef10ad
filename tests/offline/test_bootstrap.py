"""Oracles: the normal approximation of a mean's interval, and scipy's bootstrap."""

import numpy as np
import pytest
from scipy import stats

from offline.bootstrap import Interval, difference_interval, mean_interval, ratio_interval

RESAMPLES = 2000


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_interval_of_a_mean_is_near_the_normal_one(rng):
    values = rng.normal(0.6, 0.2, 400)
    found = mean_interval(values, RESAMPLES, seed=3)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_covers_the_true_mean_as_often_as_it_says(rng):
    samples = [rng.binomial(1, 0.3, 200).astype(float) for _ in range(200)]
    found = [mean_interval(sample, 400, seed=0) for sample in samples]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in found])
    assert 0.90 <= covered <= 0.99


def test_ratio_agrees_with_scipy(rng):
    teacher = rng.uniform(0.2, 1.0, 150)
    served = teacher * rng.uniform(0.9, 1.05, 150)
    expected = stats.bootstrap(
        (served, teacher),
        lambda top, bottom, axis: top.mean(axis=axis) / bottom.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = ratio_interval(served, teacher, RESAMPLES, seed=9)
    assert found.estimate == pytest.approx(served.mean() / teacher.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_pairing_takes_the_difficulty_of_queries_out(rng):
    difficulty = rng.uniform(0, 1, 300)
    better = difficulty + 0.02 + rng.normal(0, 0.01, 300)
    paired = difference_interval(better, difficulty, RESAMPLES, seed=0)
    assert paired.excludes_zero
    first, second = mean_interval(better, RESAMPLES, 0), mean_interval(difficulty, RESAMPLES, 1)
    assert first.low < second.high, "unpaired intervals overlap; only the paired one tells"


def test_same_seed_same_interval(rng):
    values = rng.uniform(size=50)
    assert mean_interval(values, 100, seed=4) == mean_interval(values, 100, seed=4)
    assert mean_interval(values, 100, seed=4) != mean_interval(values, 100, seed=5)


def test_equal_systems_differ_by_exactly_nothing(rng):
    values = rng.uniform(size=20)
    assert difference_interval(values, values, 100, seed=0) == Interval(0.0, 0.0, 0.0)
    assert not difference_interval(values, values, 100, seed=0).excludes_zero


def test_one_query_has_no_width():
    assert mean_interval(np.array([0.5]), 50, seed=0) == Interval(0.5, 0.5, 0.5)


def test_no_ratio_to_nothing():
    assert ratio_interval(np.ones(3), np.zeros(3), 10, seed=0) is None


def test_resamples_without_a_denominator_are_left_out():
    found = ratio_interval(np.array([1.0, 0.0]), np.array([1.0, 0.0]), 200, seed=0)
    assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one query"):
        mean_interval(np.array([]), 10, seed=0)
