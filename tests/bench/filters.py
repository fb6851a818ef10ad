"""Group ``filters``: what a filter costs and what it keeps of exact search, by how much of the documents it lets through.

In process, one thread: the engine as the service opens it. A filter by chance is one thing; another one excludes the query's
own neighbourhood, so that the nearest eligible documents lie far away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from service.encoder import Encoder
from service.engines import open_engine
from service.engines.base import Engine, Vectors
from snapshot.selection import Selection
from tests.bench.figures import Row
from tests.bench.library import Kind, Spec
from tests.bench.scale import K
from tests.bench.session import Session

GROUP = "filters"
PERCENT = (50.0, 10.0, 1.0, 0.1, 0.01)
KINDS: tuple[Kind, ...] = ("hnsw", "ivfpq")
CORRELATED = "away"
_QUERIES = 100
_SEED = 5


def run(session: Session) -> None:
    """Search with each filter and compare with exact search, once: neither changes between rounds."""
    for kind in KINDS:
        spec = Spec(session.usual_size, kind)
        layout, manifest = session.snapshot(spec)
        encoder = Encoder.open(layout, manifest.query_tower, manifest.space, threads=1)
        queries = encoder.encode(session.library.corpus.asked[:_QUERIES])
        engine = open_engine(manifest, layout)
        for load, selections in _filters(engine, queries):
            figures = _measure(engine, manifest.index.default_effort, queries, selections)
            session.rows.append(Row(GROUP, kind, load, 0, figures))


def _filters(engine: Engine, queries: Vectors) -> Iterator[tuple[str, list[Selection]]]:
    random = np.random.default_rng(_SEED)
    for percent in PERCENT:
        chosen = Selection.of_mask(random.random(engine.count) < percent / 100)
        yield f"{percent:g}%", [chosen] * len(queries)
    near = engine.exact(queries, min(engine.count // 20, 5000)).rows
    yield CORRELATED, [_without(engine.count, rows) for rows in near]


def _without(count: int, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Selection:
    mask = np.ones(count, dtype=np.bool_)
    mask[rows] = False
    return Selection.of_mask(mask)


def _measure(engine: Engine, effort: int, queries: Vectors, selections: list[Selection]) -> dict[str, float]:
    seconds, found, exact = [], 0, 0
    for query, selection in zip(queries[:, None], selections, strict=True):
        begun = time.perf_counter()
        hits = engine.search(query, K, effort, selection)
        seconds.append(time.perf_counter() - begun)
        best = engine.exact(query, K, selection)
        wanted = min(K, selection.count)
        least = best.scores[0, wanted - 1] if wanted else 0.0
        found += int((hits.scores[0, :wanted] >= least - 1e-6).sum())
        exact += hits.exact
    asked = sum(min(K, selection.count) for selection in selections)
    return {
        "p50_ms": float(np.median(seconds)) * 1e3,
        "p99_ms": float(np.percentile(seconds, 99)) * 1e3,
        "recall_at_10": found / asked if asked else 1.0,
        "exact_share": exact / len(selections),
        "eligible": float(np.mean([selection.count for selection in selections])),
    }
