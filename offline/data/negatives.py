"""Hard negatives: documents that a search takes for relevant to a training query and no judgement does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offline.errors import TrainingError
from snapshot.files import atomic_write

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

NEGATIVES = pa.schema([("query", pa.string()), ("row", pa.int32()), ("score", pa.float32()), ("positive", pa.float32())])
"""A candidate that passed the guard: its row, its score and the best positive's by the towers that mined."""


@dataclass
class Negatives:
    """What was mined last, and the draw from it, which depends on (seed, epoch, place) alone."""

    per_document: int
    seed: int
    epoch: int = 0
    candidates: dict[str, Rows] = field(default_factory=dict)
    """For each query the rows of its hard negatives."""

    def draw(self, asked: Sequence[Sequence[str]], place: int) -> Rows:
        """Up to ``per_document`` rows for each list of queries, those of one document of a batch; ``place`` names the batch."""
        random = np.random.default_rng([self.seed, self.epoch, place])
        drawn = [np.zeros(0, np.int64)]
        for queries in asked:
            pool = np.unique(np.concatenate([self.candidates.get(query, drawn[0]) for query in queries]))
            drawn.append(random.permutation(pool)[: self.per_document])
        return np.unique(np.concatenate(drawn))

    def use(self, table: pa.Table) -> None:
        """Draw from a mined table: ``NEGATIVES``, a query's rows together."""
        names, rows = table["query"].to_pylist(), table["row"].to_numpy().astype(np.int64)
        starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
        ends = [*starts[1:], len(names)]
        self.candidates = {names[start]: rows[start:end] for start, end in zip(starts, ends, strict=True)}


@dataclass(frozen=True)
class Found:
    """Search results to choose from; rows count in the searched documents.

    Attributes:
        queries: different training queries.
        relevant: for each the places of its known positives, not to be taken; possibly none.
        places: for each the candidates' places, best first, from any number of searches; -1 is none.
    """

    queries: Sequence[str]
    relevant: Sequence[Rows]
    places: Sequence[Rows]


def choose(found: Found, queries: Floats, documents: Floats, rows: Rows, share: float | None) -> pa.Table:
    """The candidates that are neither known positives nor score above ``share`` of the best positive's score; possibly none.

    A query whose positives are not among the searched documents cannot be guarded and gets none.

    Args:
        found: see ``Found``.
        queries: float32[q, dim], L2-normalised.
        documents: float32[n, dim], L2-normalised.
        rows: int64[n], the rows of the searched documents.
        share: as ``train.negatives.guard``; None takes whatever it scores.
    """
    kept: list[tuple[str, Rows, Floats, float]] = []
    for query, vector, relevant, places in zip(found.queries, queries, found.relevant, found.places, strict=True):
        if not len(relevant):
            continue
        candidates = np.setdiff1d(places[places >= 0], relevant)
        scores = documents[candidates] @ vector
        best = float((documents[relevant] @ vector).max())
        right = np.full(len(scores), fill_value=True) if share is None else scores <= _bound(best, share)
        kept.append((query, rows[candidates[right]], scores[right], best))
    if not kept:
        return NEGATIVES.empty_table()
    counts = [len(entry[1]) for entry in kept]
    columns = [
        np.repeat(np.array([entry[0] for entry in kept], object), counts),
        np.concatenate([entry[1] for entry in kept]).astype(np.int32),
        np.concatenate([entry[2] for entry in kept]).astype(np.float32),
        np.repeat(np.array([entry[3] for entry in kept], np.float32), counts),
    ]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, NEGATIVES.types, strict=True)], schema=NEGATIVES)


def passed(table: pa.Table, share: float) -> bool:
    """Whether the guard let any of these through: not those that were taken without it because it let none."""
    return bool((table["score"].to_numpy() <= _bound(table["positive"].to_numpy().astype(np.float64), share)).any())


def all_false(found: Found, share: float) -> TrainingError:
    """Every candidate is a false negative, and what can be done."""
    seen = sum(
        len(np.setdiff1d(places[places >= 0], relevant))
        for relevant, places in zip(found.relevant, found.places, strict=True)
        if len(relevant)
    )
    if not seen:
        return TrainingError(
            f"hard negatives: there are no candidates: whatever the {len(found.queries)} queries find is judged relevant to "
            "them, or is the query itself. Set train.negatives.per_document = 0 to train without them"
        )
    return TrainingError(
        f"hard negatives: all {seen} candidates of {len(found.queries)} queries are false negatives: known positives, or "
        f"scored above {share:g} of the positive's score. Raise train.negatives.guard or depth, have bm25 among "
        "train.negatives.sources, or set train.negatives.per_document = 0 to train without them; where this comes after the "
        "first epoch, lower learning_rate"
    )


def _bound(best: NDArray[np.float64] | float, share: float) -> Floats:
    """What a score may be beside the best positive's, which may be below zero."""
    return np.asarray(best - (1 - share) * np.abs(best), np.float32)


def write(table: pa.Table, path: Path) -> None:
    with atomic_write(path) as handle:
        pq.write_table(table, handle)


def read(path: Path) -> pa.Table | None:
    """What ``write`` wrote; None where it has not."""
    return pq.read_table(path) if path.is_file() else None
