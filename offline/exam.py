"""Held-out queries by which weights are chosen while a student is refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentence_transformers import SentenceTransformer

from offline import towers
from offline.data.prepared import Prepared
from offline.judged import LEAST_JUDGED, Judged, judged_split
from offline.metrics import NDCG, ndcg
from offline.ranking import Rows, recall
from offline.recipe import Recipe
from offline.vectors import Search
from snapshot.manifest import TextSpec
from snapshot.text import render_query

DEPTH = 10
_MAX_HELD_OUT, _HELD_OUT_SHARE = 500, 20


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
        return f"{NDCG} on {self.judged.split}" if self.judged is not None else f"agreement@{DEPTH} with the teacher"

    def measure(self, student: SentenceTransformer, spec: TextSpec, search: Search) -> float:
        """nDCG@10, or the share of the teacher's ten best documents among the student's."""
        _, rows = search(towers.encode(student, spec, self.texts), DEPTH)
        return float(ndcg(self.judged, rows).mean()) if self.judged is not None else recall(rows, self.taught)


def judged_queries(prepared: Prepared, recipe: Recipe) -> Judged | None:
    """A seeded sample of the judged dev queries, else one train query in twenty, not to be learnt on; None where both are few.

    The teacher has seen the train queries, so that on them a student that leaves it has the harder proof.
    """
    dev, train = (judged_split(prepared, recipe, split) for split in ("dev", "train"))
    if len(dev) >= LEAST_JUDGED:
        return dev.sample(recipe.refine.max_dev_queries, recipe.refine.seed)
    held_out = share_of(len(train))
    return train.sample(held_out, recipe.refine.seed) if held_out >= LEAST_JUDGED else None


def share_of(count: int) -> int:
    """How many of so many queries are held out: one in twenty, at least 1 if there are any, at most 500."""
    return min(_MAX_HELD_OUT, -(-count // _HELD_OUT_SHARE))


def rendered(judged: Judged, spec: TextSpec) -> list[str]:
    return [render_query(spec, text) for text in judged.texts]
