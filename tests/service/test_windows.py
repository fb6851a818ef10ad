"""Intervals, against figures of the literature and against how often they hold."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from service.windows import Window, normal, wilson


def test_wilson_gives_the_figures_of_the_textbook() -> None:
    low, high = wilson([1.0] * 8 + [0.0] * 2)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson([1.0] * 10)
    assert (low, high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson([0.0] * 10)[0] == 0.0


@pytest.mark.parametrize("mean", [0.5, 0.9, 0.97])
def test_at_least_95_in_100_intervals_hold_the_truth(mean: float) -> None:
    random = np.random.default_rng(7)
    for interval in (wilson, normal):
        held = 0
        for _ in range(400):
            values = (random.binomial(10, mean, size=60) / 10).tolist()
            low, high = interval(values)
            held += low <= mean <= high
        assert held / 400 >= 0.92, interval  # the standard error of the share is 0.011


def test_normal_is_mean_and_standard_error() -> None:
    values = [0.1, 0.5, 0.9, 0.7]
    half = 1.959964 * statistics.stdev(values) / 2
    assert normal(values) == pytest.approx((0.55 - half, 0.55 + half))
    assert normal([0.3]) == (-1.0, 1.0)


def test_a_window_forgets_the_oldest() -> None:
    window = Window(3, normal)
    assert window.estimate() is None
    for value in (9.0, 1.0, 2.0, 3.0):
        window.add(value)
    found = window.estimate()
    assert found is not None
    assert (found.mean, found.size) == (2.0, 3)
