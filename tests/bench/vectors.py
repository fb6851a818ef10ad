"""Document vectors: real ones, and synthetic ones clustered around them where there are not enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from offline.ranking import Floats
from tests.bench.cache import Cache
from tests.bench.corpus import Corpus
from tests.bench.students import BACKBONE, DOCUMENT_TEXT

DIRECTIONS = 32
"""The noise lies in the directions in which the real vectors vary most, as strong there as they vary themselves.

Equally strong noise in all directions puts every neighbour equally far, which real ones never are.
"""
_BLOCK = 1 << 16
_FILE = "vectors.npy"


def real_vectors(cache: Cache, corpus: Corpus) -> Floats:
    """Vectors float32[n, dim] of the corpus by the whole tower, L2-normalised."""

    def make(folder: Path) -> None:
        from tests.bench.towers import encode_documents  # torch: see students.py

        np.save(folder / _FILE, encode_documents(corpus))

    inputs = {"backbone": BACKBONE, "corpus": corpus.key, "text": DOCUMENT_TEXT.model_dump()}
    vectors: Floats = np.load(cache.folder("vectors", inputs, make) / _FILE)
    return vectors


def clustered(real: Floats, rows: int) -> tuple[Floats, np.ndarray]:
    """``rows`` vectors float32[rows, dim] of which the first are ``real``, and of each the row of its real one, int64[rows].

    A synthetic vector is a real one plus Gaussian noise with the real ones' covariance in their first ``DIRECTIONS``
    principal directions, normalised. A smaller set is the beginning of a larger one.
    """
    vectors, centres = np.empty((rows, real.shape[1]), np.float32), np.arange(rows, dtype=np.int64)
    for start, block, chosen in clustered_blocks(real, rows):
        vectors[start : start + len(block)], centres[start : start + len(block)] = block, chosen
    return vectors, centres


def clustered_blocks(real: Floats, rows: int) -> Iterator[tuple[int, Floats, np.ndarray]]:
    """The same, block by block: the first row of each, its vectors and its centres."""
    yield 0, real[:rows], np.arange(min(len(real), rows), dtype=np.int64)
    factor = _noise_factor(real)
    for start in range(len(real), rows, _BLOCK):
        size = min(_BLOCK, rows - start)
        random = np.random.default_rng(start)
        chosen = random.integers(len(real), size=_BLOCK)[:size]
        noise = random.standard_normal((_BLOCK, DIRECTIONS), np.float32)[:size]
        block = real[chosen] + noise @ factor
        yield start, block / np.linalg.norm(block, axis=1, keepdims=True), chosen


def _noise_factor(real: Floats) -> Floats:
    """float32[DIRECTIONS, dim], which gives standard normal numbers the covariance of ``real`` in its principal directions."""
    variances, directions = np.linalg.eigh(np.cov(real, rowvar=False))
    largest = slice(-DIRECTIONS, None)
    factor: Floats = (np.sqrt(variances[largest])[:, None] * directions[:, largest].T).astype(np.float32)
    return factor
