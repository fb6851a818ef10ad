"""The held-out queries that quality is measured on, with their judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from offline.data.prepared import Prepared
from offline.recipe import Recipe

LEAST_JUDGED = 100
"""Judged queries that make a measure: with fewer, the best of several weights would be the luckiest."""


@dataclass(frozen=True)
class Judged:
    """Queries of one split that have at least one relevant document.

    Attributes:
        judgements: for each query, document row -> score; score 0 means judged and irrelevant.
        relevance: scores from this one on count as relevant.
        skipped: queries of the split left out because no judgement reaches ``relevance``.
    """

    split: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    judgements: tuple[Mapping[int, int], ...]
    relevance: int
    skipped: int

    @property
    def is_pooled(self) -> bool:
        """Whether raters also marked irrelevant documents or grades: then an unjudged document is not known to be wrong."""
        return any(score != 1 for scores in self.judgements for score in scores.values())

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, limit: int | None, seed: int) -> Judged:
        """At most ``limit`` of the queries, drawn at random, in their order."""
        if limit is None or len(self) <= limit:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False)))

    def take(self, places: Iterable[int]) -> Judged:
        """Some of the queries."""
        chosen = [int(place) for place in places]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            texts=tuple(self.texts[i] for i in chosen),
            judgements=tuple(self.judgements[i] for i in chosen),
        )


def load_judged(prepared: Prepared, recipe: Recipe) -> Judged | None:
    """The split that the recipe asks for, else ``dev``; None where neither has a query with a relevant document.

    With ``evaluate.max_queries`` a seeded sample of the queries, in their order.
    """
    for split in dict.fromkeys((recipe.evaluate.split, "dev")):
        judged = judged_split(prepared, recipe, split)
        if len(judged):
            return judged.sample(recipe.evaluate.max_queries, recipe.evaluate.seed)
    return None


def judged_split(prepared: Prepared, recipe: Recipe, split: str) -> Judged:
    """Every query of one split that has a relevant document; possibly none."""
    scores = _scores(prepared, split)
    queries = [query for query in prepared.queries.to_pylist() if query["split"] == split and query["id"] in scores]
    relevance = recipe.data.relevance
    kept = [query for query in queries if max(scores[query["id"]].values()) >= relevance]
    return Judged(
        split=split,
        ids=tuple(query["id"] for query in kept),
        texts=tuple(query["text"] for query in kept),
        judgements=tuple(scores[query["id"]] for query in kept),
        relevance=relevance,
        skipped=len(queries) - len(kept),
    )


def _scores(prepared: Prepared, split: str) -> dict[str, dict[int, int]]:
    scores: dict[str, dict[int, int]] = {}
    for judgement in prepared.qrels.to_pylist():
        if judgement["split"] != split:
            continue
        scores.setdefault(judgement["query_id"], {})[judgement["row"]] = judgement["score"]
    return scores
