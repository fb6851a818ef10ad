"""Held-out queries by which weights are chosen while a student is refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.data.prepared import Prepared
from offline.judged import Judged, judged_split
from offline.metrics import NDCG, ndcg
from offline.ranking import Rows, recall
from offline.recipe import Recipe
from offline.vectors import Search
from snapshot.manifest import TextSpec
from snapshot.text import render_query

DEPTH = 10
LEAST_JUDGED = 100
"""Dev queries that make a measure: with fewer, the best of several weights would be the luckiest."""


@dataclass(frozen=True)
class Exam:
    """Rendered queries, and what a student's answers to them are held against.

    Attributes:
        judged: their judgements; None where the teacher's best documents, int64[q, 10] ``taught``, take their place.
    """

    texts: Sequence[str]
    judged: Judged | None
    taught: Rows

    @property
    def name(self) -> str:
        """What is measured; higher is better."""
        return f"dev {NDCG}" if self.judged is not None else f"agreement@{DEPTH} with the teacher"

    def measure(self, student: SentenceTransformer, spec: TextSpec, search: Search) -> float:
        """nDCG@10, or the share of the teacher's ten best documents among the student's."""
        _, rows = search(towers.encode(student, spec, self.texts), DEPTH)
        return float(ndcg(self.judged, rows).mean()) if self.judged is not None else recall(rows, self.taught)


def dev_queries(prepared: Prepared, recipe: Recipe) -> Judged | None:
    """A seeded sample of the judged dev queries; None where there are too few."""
    judged, limit = judged_split(prepared, recipe, "dev"), recipe.refine.max_dev_queries
    if len(judged) < LEAST_JUDGED:
        return None
    chosen = np.sort(np.random.default_rng(recipe.refine.seed).permutation(len(judged))[:limit])
    ids, texts, judgements = (tuple(part[i] for i in chosen) for part in (judged.ids, judged.texts, judged.judgements))
    return replace(judged, ids=ids, texts=texts, judgements=judgements)


def rendered(judged: Judged, spec: TextSpec) -> list[str]:
    return [render_query(spec, text) for text in judged.texts]
