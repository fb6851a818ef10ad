"""Held-out queries by which weights are chosen while a student is refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.bootstrap import Values
from offline.data.dataset import Query
from offline.data.pairs import fold, held_out
from offline.data.prepared import Prepared
from offline.judged import LEAST_JUDGED, Judged, judged_split
from offline.metrics import NDCG, ndcg
from offline.ranking import Rows
from offline.recipe import Recipe
from offline.vectors import Search
from snapshot.manifest import TextSpec
from snapshot.text import render_query

DEPTH = 10
_MAX_HELD_OUT, _HELD_OUT_SHARE = 500, 20
_HALVES = 17
"""Seed of the halves of dev: not that of a recipe, so that all rows of an ablation have the same."""


@dataclass(frozen=True)
class Exam:
    """Rendered queries, and what a student's answers to them are held against.

    Attributes:
        texts: those with judgements first.
        judged: of the first texts; possibly none.
        taught: the teacher's best documents int64[n, 10] of the other texts.
    """

    texts: Sequence[str]
    judged: Judged | None
    taught: Rows

    @property
    def name(self) -> str:
        """What is measured; higher is better."""
        by_judges = f"{NDCG} on {self.judged.split}" if self.judged is not None else ""
        by_teacher = f"agreement@{DEPTH} with the teacher" if len(self.taught) else ""
        return " and ".join(part for part in (by_judges, by_teacher) if part)

    @property
    def is_enough(self) -> bool:
        """Whether the best of several means over so many queries is more than the luckiest."""
        return len(self.texts) >= LEAST_JUDGED

    def values(self, student: SentenceTransformer, spec: TextSpec, search: Search) -> Values:
        """float64[q]: nDCG@10 where there are judgements, else the share of the teacher's ten best among the student's."""
        depth = DEPTH if self.judged is None else self.judged.depth(DEPTH)
        _, rows = search(towers.encode(student, spec, self.texts), depth)
        count = len(self.judged) if self.judged is not None else 0
        agreed = [np.isin(best[best >= 0], row[:DEPTH]).mean() for best, row in zip(self.taught, rows[count:], strict=True)]
        by_judges = ndcg(self.judged, rows[:count]) if self.judged is not None else np.zeros(0)
        return np.concatenate([by_judges, np.array(agreed, np.float64)])

    def measure(self, student: SentenceTransformer, spec: TextSpec, search: Search) -> float:
        """The mean of ``values``."""
        return float(self.values(student, spec, search).mean())


def halves(judged: Judged) -> tuple[Judged, Judged]:
    """The queries that choose, and those that measure what was chosen."""
    order = np.random.default_rng(_HALVES).permutation(len(judged))
    middle = (len(judged) + 1) // 2
    return judged.take(np.sort(order[:middle])), judged.take(np.sort(order[middle:]))


def judged_queries(prepared: Prepared, recipe: Recipe) -> Judged | None:
    """A seeded sample of the judged dev queries; where they are few, one train query in twenty besides, not to be learnt on.

    Where both together are few, those of dev that there are; None where there are none.

    The teacher has seen the train queries, so that on them a student that leaves it has the harder proof.
    """
    config, dev = recipe.refine, judged_split(prepared, recipe, "dev")
    if config.half_of_dev:
        dev, _ = halves(dev)
    if len(dev) >= LEAST_JUDGED:
        return dev.sample(config.max_dev_queries, config.seed)
    train = _not_held_out(prepared, judged_split(prepared, recipe, "train"))
    drawn = train.sample(share_of(len(train)), config.seed)
    if len(dev) + len(drawn) >= LEAST_JUDGED:
        return _both(dev, drawn)
    return dev if len(dev) else None


def _not_held_out(prepared: Prepared, train: Judged) -> Judged:
    """Train queries whose text is not that of a dev or test query."""
    forbidden = held_out(Query(**query) for query in prepared.queries.to_pylist())
    return train.take(place for place, text in enumerate(train.texts) if fold(text) not in forbidden)


def _both(dev: Judged, train: Judged) -> Judged:
    if not len(dev):
        return train
    return replace(
        dev,
        split=f"{dev.split} and {train.split}",
        ids=(*dev.ids, *train.ids),
        texts=(*dev.texts, *train.texts),
        judgements=(*dev.judgements, *train.judgements),
        own={**dev.own, **train.own},
    )


def hold_out(real: Sequence[str], mined: Sequence[str], judged: int) -> list[str]:
    """Texts to ask beside so many judged queries: none where those make a measure.

    One in twenty, more where those are few, but at most half: of the real ones, then of those made of documents.
    """
    missing = LEAST_JUDGED - judged
    if missing <= 0:
        return []
    first, second = (real, mined) if real else (mined, real)
    chosen = list(first[: max(share_of(len(first)), min(missing, len(first) // 2))])
    return [*chosen, *second[: max(0, min(missing - len(chosen), len(second) // 2))]]


def share_of(count: int) -> int:
    """How many of so many queries are held out: one in twenty, at least 1 if there are any, at most 500."""
    return min(_MAX_HELD_OUT, -(-count // _HELD_OUT_SHARE))


def rendered(judged: Judged, spec: TextSpec) -> list[str]:
    return [render_query(spec, text) for text in judged.texts]
