"""What a quantised graph must show before anybody is served by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline.data.prepared import Prepared
from offline.exported import Gate
from offline.graph import Graph, cosine_distance
from offline.judged import LEAST_JUDGED, Judged, judged_split, own_of_train
from offline.metrics import ndcg
from offline.ranking import Blocks, Floats, exact_top_k
from offline.recipe import Recipe
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_BATCHES = (2, 8, 32)
_MAX_PAIRS = 500
_DEPTH = 10


def batch_gate(graph: Graph, texts: Sequence[str], limit: float) -> Gate:
    """Is a text's vector the same whatever else is in its batch? Alone, against batches of several sizes."""
    alone = graph.encode(texts, batch_size=1)
    mixed = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[i] for i in mixed]
    worst = float(np.max([cosine_distance(graph.encode(shuffled, size), alone[mixed]) for size in _BATCHES]))
    return Gate.compare("batch_distance", worst, limit, "1 - cosine of the same text alone and in mixed batches is up to")


def ndcg_gate(fp32: Graph, int8: Graph, judged: Judged, spec: TextSpec, documents: Floats | Blocks, limit: float) -> Gate:
    """How much nDCG@10 int8 loses against fp32, both by exact search."""
    if not len(judged):
        return Gate.compare(
            "ndcg_at_10_loss", 1.0, limit, "there is no judged query and no training pair; nDCG@10 lost counts as"
        )
    texts = [render_query(spec, text) for text in judged.texts]
    depth = judged.depth(_DEPTH)
    before, after = (ndcg(judged, exact_top_k(graph.encode(texts), documents, depth)[1]) for graph in (fp32, int8))
    loss = float(np.mean(before) - np.mean(after))
    return Gate.compare("ndcg_at_10_loss", loss, limit, f"nDCG@10 lost against fp32 on {len(judged)} {judged.split} queries is")


def judged_for_gate(prepared: Prepared, recipe: Recipe) -> Judged:
    """Judged queries of dev if they are enough, else training pairs, each with its own document as the only relevant one.

    Pairs that were made of the documents are ``made-up``. Without pairs dev, however few they are, else test:

    test comes last because int8 is chosen by them: the proof on test should not be.
    """
    dev = judged_split(prepared, recipe, "dev")
    pairs = prepared.pairs.select(["query", "row"]).to_pylist()
    if len(dev) >= LEAST_JUDGED or (len(dev) and not pairs):
        return dev
    if not pairs:
        return judged_split(prepared, recipe, "test")
    pairs = pairs[:: max(1, len(pairs) // _MAX_PAIRS)]
    own = own_of_train(prepared)
    return Judged(
        split="training" if len(judged_split(prepared, recipe, "train")) else "made-up",
        ids=tuple(map(str, range(len(pairs)))),
        texts=tuple(pair["query"] for pair in pairs),
        judgements=tuple({pair["row"]: 1} for pair in pairs),
        relevance=1,
        skipped=0,
        own={
            str(place): own[pair["query"]]
            for place, pair in enumerate(pairs)
            if own.get(pair["query"], pair["row"]) != pair["row"]
        },
    )
