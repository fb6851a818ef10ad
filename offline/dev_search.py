"""The documents that are searched while two towers train: by dev queries, and for hard negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from offline.batches import Pairs
from offline.data.prepared import Prepared
from offline.judged import Judged, judged_split
from offline.learner import encode_with
from offline.metrics import ndcg
from offline.progress import say
from offline.ranking import Floats, Rows, exact_top_k
from offline.recipe import Recipe
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_TOP = 10
_FEWEST_DOCUMENTS = 20
"""With fewer different documents none is held out: dev would be a few queries."""
_HELD_OUT, _ROWS = 1, 3
"""Streams of random numbers."""


@dataclass
class Search:
    """Encodes documents and queries with the learner in training.

    Attributes:
        rows: int64[n], which documents are searched; a place counts in them.
        documents: the rendered texts of those.
        alone: whether this process encodes all by itself.
    """

    rows: Rows
    documents: Sequence[str]
    query_tower: SentenceTransformer
    document_tower: SentenceTransformer
    query_spec: TextSpec
    document_spec: TextSpec
    alone: bool = False
    _vectors: dict[int, Floats] = field(default_factory=dict)

    def document_vectors(self, learner: torch.nn.Module, step: int) -> Floats:
        """float32[n, dim] after so many steps, computed once."""
        if step not in self._vectors:
            self._vectors.clear()
            tower, spec = self.document_tower, self.document_spec
            self._vectors[step] = encode_with(learner, "document", tower, spec, self.documents, alone=self.alone)
        return self._vectors[step]

    def query_vectors(self, learner: torch.nn.Module, queries: Sequence[str]) -> Floats:
        """float32[q, dim] of rendered queries."""
        return encode_with(learner, "query", self.query_tower, self.query_spec, queries, alone=self.alone)

    def places(self, rows: Sequence[int]) -> Rows:
        """Where rows stand among those searched; those that do not are left out."""
        return np.flatnonzero(np.isin(self.rows, rows))

    def ndcg(self, learner: torch.nn.Module, step: int, dev: Judged) -> float:
        """Mean nDCG@10 of rendered dev queries."""
        documents = self.document_vectors(learner, step)
        found = exact_top_k(self.query_vectors(learner, dev.texts), documents, _TOP)[1]
        return float(np.mean(ndcg(dev, self.rows[found])))


def searched_rows(count: int, first: Sequence[Rows], limit: int, seed: int) -> Rows:
    """Up to ``limit`` of ``count`` rows, in their order: those in ``first``, the earlier lists before the later, then others."""
    random = np.random.default_rng([seed, _ROWS])
    everything = np.concatenate([*(random.permutation(np.unique(rows)) for rows in first), random.permutation(count)])
    unique, place = np.unique(everything, return_index=True)
    return np.sort(unique[np.argsort(place, kind="stable")][:limit]).astype(np.int64)


def split_dev(prepared: Prepared, recipe: Recipe, pairs: Pairs) -> tuple[Pairs, Judged | None]:
    """Pairs to learn from and dev queries, rendered, at most ``train.dev.max_queries``.

    Where there is no dev split, all queries of a share of the documents are held out; of fewer than twenty documents none.
    """
    config = recipe.train.dev
    dev = judged_split(prepared, recipe, "dev")
    if len(dev):
        texts = tuple(render_query(recipe.text.query, text) for text in dev.texts)
        return pairs, replace(dev, texts=texts).sample(config.max_queries, recipe.train.seed)
    different = np.unique(pairs.rows)
    if len(different) < _FEWEST_DOCUMENTS:
        return pairs, None
    size = max(1, round(config.held_out_share * len(different)))
    rows = set(np.random.default_rng([recipe.train.seed, _HELD_OUT]).permutation(different)[:size].tolist())
    positives = pairs.positives()
    queries = {query for query, row in zip(pairs.queries, pairs.rows.tolist(), strict=True) if row in rows}
    kept = [i for i, row in enumerate(pairs.rows.tolist()) if row not in rows and pairs.queries[i] not in queries]
    say(f"  no dev split: {len(queries)} queries of {size} documents are held out to measure on")
    return pairs.take(kept), _held_out(sorted(queries), positives).sample(config.max_queries, recipe.train.seed)


def _held_out(queries: Sequence[str], positives: Mapping[str, frozenset[int]]) -> Judged:
    return Judged(
        split="held-out",
        ids=tuple(queries),
        texts=tuple(queries),
        judgements=tuple(dict.fromkeys(sorted(positives[query]), 1) for query in queries),
        relevance=1,
        skipped=0,
    )
