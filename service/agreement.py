"""One query looked at again: against exact search, and against the teacher's query tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.checks import K, Pace, exact_scores, share_in_common
from service.encoder import Encoder
from service.engines.base import NO_ROW, Vectors
from service.generation import Generation
from service.stages import Search, check

_TIE = 1e-5
"""Scores that differ less are equal: vectors of a batch differ in the last bits."""


class Agreement(NamedTuple):
    """Cosine of the student's and the teacher's vector, and the share of their ten best documents that they have in common."""

    cosine: float
    overlap: float


def live_recall(generation: Generation, search: Search, scores: Sequence[float], pace: Pace) -> float | None:
    """Of exact search's ``search.k`` best, ten at most, the share that an answer had; None where no document is eligible.

    Args:
        generation: that answered.
        search: from the first hit, without a least score.
        scores: of its hits, best first.
        pace: between two calls of some milliseconds.
    """
    k = min(K, search.k, generation.documents.count)
    parsed = check(generation, search)
    selection = None if parsed is None else generation.documents.select(parsed, pace)
    pace()
    vector = generation.encoder.encode([search.query])
    best = exact_scores(generation.engine, vector, k, pace, selection)[0]
    expected = int(np.isfinite(best).sum())
    if not expected:
        return None
    found = int((np.asarray(scores[:expected]) >= best[expected - 1] - _TIE).sum())
    return found / expected


def teacher_agreement(generation: Generation, teacher: Encoder, query: str, pace: Pace) -> Agreement:
    """Encode by both towers, and search with both vectors at the greatest effort, so that what differs is not the index."""
    vectors = []
    for encoder in (generation.encoder, teacher):
        vectors.append(encoder.encode([query]))
        pace()
    effort = generation.manifest.index.efforts[-1].effort
    ours, theirs = (_rows(generation, vector, effort, pace) for vector in vectors)
    return Agreement(float(np.einsum("d,d->", vectors[0][0], vectors[1][0])), share_in_common(ours, theirs))


def _rows(generation: Generation, vector: Vectors, effort: int, pace: Pace) -> list[str]:
    rows = generation.engine.search(vector, K, effort).rows[0]
    pace()
    return generation.documents.ids(rows[rows != NO_ROW])
