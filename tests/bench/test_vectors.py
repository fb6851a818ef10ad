"""Synthetic vectors lie around real ones, and a smaller set begins a larger one."""

from __future__ import annotations

import numpy as np

from tests.bench.vectors import clustered


def unit(random, rows, dim=64):
    vectors = random.standard_normal((rows, dim)).astype(np.float32) * np.linspace(3, 0.1, dim, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_real_ones_come_first_and_synthetic_ones_are_nearest_to_their_own_centre_more_often_than_not():
    real = unit(np.random.default_rng(0), 50)
    vectors, centres = clustered(real, 2000)
    assert np.array_equal(vectors[:50], real)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    own = np.einsum("nd,nd->n", vectors[50:], real[centres[50:]])
    others = (vectors[50:] @ real.T).mean(axis=1)
    assert own.mean() > others.mean() + 0.3


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    real = unit(np.random.default_rng(1), 50)
    small, large = clustered(real, 500), clustered(real, 900)
    assert np.allclose(small[0], large[0][:500], atol=1e-6)
    assert np.array_equal(small[1], large[1][:500])


def test_fewer_than_the_real_ones_are_real_ones():
    real = unit(np.random.default_rng(2), 50)
    assert np.array_equal(clustered(real, 20)[0], real[:20])
