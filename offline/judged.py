"""The held-out queries that quality is measured on, with their judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from offline.data.prepared import Prepared
from offline.recipe import Recipe

Rows = NDArray[np.int64]
LEAST_JUDGED = 100
"""Judged queries that make a measure: with fewer, the best of several weights would be the luckiest."""


def why_too_few(queries: int) -> str | None:
    """Why a mean over so many judged queries proves nothing; None where they are enough."""
    return None if queries >= LEAST_JUDGED else f"of {queries:,} judged queries; {LEAST_JUDGED} are the least"


@dataclass(frozen=True)
class Judged:
    """Queries of one split that have at least one relevant document.

    Attributes:
        judgements: for each query, document row -> score; score 0 means judged and irrelevant.
        relevance: scores from this one on count as relevant.
        skipped: queries of the split left out because no judgement reaches ``relevance``.
        own: by query id, the row of the document that has this id too, unless it is judged relevant. Where documents are asked
            for by documents (duplicates of a question, answers to an argument), it is the query itself: no answer, and BEIR's
            evaluation leaves it out (``ignore_identical_ids``).
    """

    split: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    judgements: tuple[Mapping[int, int], ...]
    relevance: int
    skipped: int
    own: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_pooled(self) -> bool:
        """Whether raters told documents of a query apart, as irrelevant or by grades: an unjudged one is not known to be wrong.

        Where no query has two grades, any order of its judged documents is the best one.
        """
        return any(len(set(scores.values())) > 1 for scores in self.judgements)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def with_own(self) -> int:
        """How many of the queries have a document of their own."""
        return sum(name in self.own for name in self.ids)

    def depth(self, k: int) -> int:
        """How many documents to ask for, so that ``k`` are left without a query's own."""
        return k + 1 if self.with_own else k

    def without_own(self, rows: Rows, k: int) -> Rows:
        """Rankings int64[q, at most k] of ``rows`` int64[q, any], best first, without the query's own document."""
        if not self.with_own:
            return rows[:, :k]
        kept = np.full((len(rows), min(k, rows.shape[1])), -1, np.int64)
        for place, (name, found) in enumerate(zip(self.ids, rows, strict=True)):
            others = found[found != self.own.get(name, -1)][: kept.shape[1]]
            kept[place, : len(others)] = others
        return kept

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
    own = rows_of(prepared, [query["id"] for query in kept])
    return Judged(
        split=split,
        ids=tuple(query["id"] for query in kept),
        texts=tuple(query["text"] for query in kept),
        judgements=tuple(scores[query["id"]] for query in kept),
        relevance=relevance,
        skipped=len(queries) - len(kept),
        own={name: row for name, row in own.items() if scores[name].get(row, 0) <= 0},
    )


def own_of_train(prepared: Prepared) -> dict[str, int]:
    """By text of a train query, the row of the document that has the query's id."""
    queries = [query for query in prepared.queries.to_pylist() if query["split"] == "train"]
    rows = rows_of(prepared, [query["id"] for query in queries])
    return {query["text"]: rows[query["id"]] for query in queries if query["id"] in rows}


def rows_of(prepared: Prepared, ids: Sequence[str]) -> dict[str, int]:
    """Rows of the documents that have these ids, by id; of those that there are."""
    if not ids:
        return {}
    column = prepared.documents.column("id")
    among = pc.is_in(column, value_set=pa.array(ids, column.type)).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(among)
    return dict(zip(column.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))


def _scores(prepared: Prepared, split: str) -> dict[str, dict[int, int]]:
    scores: dict[str, dict[int, int]] = {}
    for judgement in prepared.qrels.to_pylist():
        if judgement["split"] != split:
            continue
        scores.setdefault(judgement["query_id"], {})[judgement["row"]] = judgement["score"]
    return scores
