"""The documents that are searched while two towers train: by dev queries, and for hard negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from offline.batches import Pairs
from offline.config import DevConfig
from offline.data.prepared import Prepared
from offline.judged import LEAST_JUDGED, Judged, judged_split, own_of_train
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
_MOST = 10
"""One in so many training queries is held out where dev is too few to tell weights apart."""
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
        found = exact_top_k(self.query_vectors(learner, dev.texts), documents, dev.depth(_TOP))[1]
        return float(np.mean(ndcg(dev, self.rows[found])))


def searched_rows(count: int, first: Sequence[Rows], limit: int, seed: int) -> Rows:
    """Up to ``limit`` of ``count`` rows, in their order: those in ``first``, the earlier lists before the later, then others."""
    random = np.random.default_rng([seed, _ROWS])
    everything = np.concatenate([*(random.permutation(np.unique(rows)) for rows in first), random.permutation(count)])
    unique, place = np.unique(everything, return_index=True)
    return np.sort(unique[np.argsort(place, kind="stable")][:limit]).astype(np.int64)


def split_dev(prepared: Prepared, recipe: Recipe, pairs: Pairs) -> tuple[Pairs, Judged | None]:
    """Pairs to learn from and dev queries, rendered, at most ``train.dev.max_queries``.

    Where the dev split has none, or too few to tell weights apart and there is a train split to draw from, a share of the
    training queries is held out and measured on too, up to a tenth of them for a hundred queries: all queries of some
    documents. Of fewer than twenty documents none is.
    """
    config = recipe.train.dev
    dev = judged_split(prepared, recipe, "dev")
    dev = replace(dev, texts=tuple(render_query(recipe.text.query, text) for text in dev.texts))
    is_enough = len(dev) >= LEAST_JUDGED or (len(dev) > 0 and not len(judged_split(prepared, recipe, "train")))
    if is_enough or len(np.unique(pairs.rows)) < _FEWEST_DOCUMENTS:
        return pairs, dev.sample(config.max_queries, recipe.train.seed) if len(dev) else None
    queries = _to_hold_out(pairs, config, recipe.train.seed, LEAST_JUDGED - len(dev))
    kept = [i for i, query in enumerate(pairs.queries) if query not in queries]
    say(f"  {len(dev) or 'no'} dev queries: {len(queries)} training queries are held out to measure on")
    own = {render_query(recipe.text.query, text): row for text, row in own_of_train(prepared).items()}
    held_out = _held_out(sorted(queries), pairs.positives(), recipe.data.relevance, own)
    return pairs.take(kept), _both(dev, held_out).sample(config.max_queries, recipe.train.seed)


def _to_hold_out(pairs: Pairs, config: DevConfig, seed: int, missing: int) -> set[str]:
    """A share of the queries, or up to a tenth where ``missing`` to make a measure, no more than are measured.

    Whole documents with all their queries; where those are too many, queries alone.
    """
    asking: dict[int, set[str]] = {}
    for query, row in zip(pairs.queries, pairs.rows.tolist(), strict=True):
        asking.setdefault(row, set()).add(query)
    everything = sorted(set(pairs.queries))
    share = max(1, round(config.held_out_share * len(everything)))
    wanted = min(config.max_queries, max(share, min(missing, len(everything) // _MOST)))
    random = np.random.default_rng([seed, _HELD_OUT])
    chosen: set[str] = set()
    for row in random.permutation(sorted(asking)).tolist():
        fresh = asking[row] - chosen
        if len(chosen) + len(fresh) <= wanted:
            chosen |= fresh
        if len(chosen) == wanted:
            break
    return chosen or {everything[i] for i in random.permutation(len(everything))[:wanted]}


def _held_out(queries: Sequence[str], positives: Mapping[str, frozenset[int]], score: int, own: Mapping[str, int]) -> Judged:
    return Judged(
        split="held-out",
        ids=tuple(queries),
        texts=tuple(queries),
        judgements=tuple(dict.fromkeys(sorted(positives[query]), score) for query in queries),
        relevance=score,
        skipped=0,
        own={query: own[query] for query in queries if query in own and own[query] not in positives[query]},
    )


def _both(dev: Judged, held_out: Judged) -> Judged:
    """``held_out`` where there is no dev query, so that it keeps its name."""
    if not len(dev):
        return held_out
    return replace(
        dev,
        split=f"{dev.split} and {held_out.split}",
        ids=(*dev.ids, *held_out.ids),
        texts=(*dev.texts, *held_out.texts),
        judgements=(*dev.judgements, *held_out.judgements),
        own={**dev.own, **held_out.own},
    )
