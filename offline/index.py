"""The index over the document vectors: its kind, its building, and its effort table; FAISS's here, ``offline.milvus`` else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from pydantic import TypeAdapter

from offline import sharded
from offline.config import IndexConfig
from offline.data.prepared import Prepared
from offline.efforts import default_effort, measure, open_described, open_index
from offline.encoded import SHARDS, Vectors, load_vectors
from offline.errors import RecipeError
from offline.exported import open_graph
from offline.parent import parent_of
from offline.probes import probe_queries
from offline.progress import say, track
from offline.ranking import Blocks, Floats, Rows, exact_top_k
from offline.recipe import Recipe
from offline.sharded import write_index as write_index
from offline.stages import Job, Source, Stage, Summary
from snapshot.files import write_text
from snapshot.layout import INDEX as INDEX
from snapshot.manifest import Effort, Index
from snapshot.text import render_query

DESCRIPTION = "index.json"
Kind = Literal["flat", "hnsw", "ivfpq", "sharded"]

_RECALL_AT = 10
_ADD_ROWS = 10_000
_HNSW_EFFORTS = (16, 32, 64, 128, 256, 512)
_CENTROIDS = 256
"""Of each PQ codebook: codes have 8 bits."""
POINTS_PER_CENTROID = 39
"""FAISS warns of bad centroids below this."""
_SAMPLE_PER_LIST = 64
_SAMPLE_ROWS = 65_536
_SEED = 17
_MOST_MS = 100.0
"""No request waits so long; of a large index, measuring what takes longer would take hours."""
_UNKNOWN = Effort(effort=0, recall_at_10=0, p50_ms=0, p99_ms=0)
"""In place of a table that is yet to be measured."""


def load_description(folder: Path) -> Index:
    """What the manifest will say about the index in the output folder of ``index``."""
    return TypeAdapter[Index](Index).validate_json((folder / DESCRIPTION).read_bytes())


def run(job: Job) -> Summary:
    """Build the index, or take the one that a killed run has finished, and measure it as it will be served.

    Raises:
        RecipeError: codebooks or lists that need more rows, or vectors of another width.
    """
    if job.recipe.index.kind == "milvus":
        from offline.milvus import build as build_collection  # which measures as this does

        return build_collection(job)
    vectors = Vectors(job.inputs["encode"] / SHARDS)
    plan = plan_for(job.recipe, *vectors.shape)
    write(job, plan)
    described = Ruler.make(job, vectors).describe(job.folder, plan)
    write_description(described, job.folder)
    return summary(described, len(vectors))


@dataclass(frozen=True)
class Plan:
    """An index that is to be: ``sizes`` is what the manifest says of the kind beside its efforts, ``why`` the reason for it."""

    kind: Kind
    sizes: Mapping[str, Any]
    why: str

    def index(self, efforts: Sequence[Effort], default_effort: int, which: str) -> Index:
        """What the manifest says of it once its efforts are measured."""
        known = {"kind": self.kind, **self.sizes, "reason": f"{self.why}; {which}"}
        return TypeAdapter[Index](Index).validate_python(known | {"default_effort": default_effort, "efforts": tuple(efforts)})


@dataclass(frozen=True)
class Ruler:
    """What indexes are measured with: the student's ``queries`` float32[q, dim], and by exact search their scores
    ``exact`` float32[q, k] and ``rows`` int64[q, k].
    """

    queries: Floats
    exact: Floats
    recall_target: float
    rows: Rows | None = None

    @classmethod
    def make(cls, job: Job, vectors: Floats | Blocks) -> Ruler:
        """For an index over ``vectors`` float32[rows, dim], with the graph and the queries of the job's inputs."""
        queries = _queries(job)
        exact, rows = exact_top_k(queries, vectors, _RECALL_AT)
        return cls(queries, exact, job.recipe.index.recall_target, rows)

    def describe(self, folder: Path, plan: Plan, file: str = INDEX) -> Index:
        """The effort table of the index in ``folder``, as it will be served, and the effort that reaches the target."""
        most_ms, rows = (_MOST_MS, self.rows) if plan.kind == "sharded" else (math.inf, None)
        opened = open_index(folder / file) if plan.kind != "sharded" else open_described(folder, plan.index([_UNKNOWN], 0, ""))
        efforts = measure(opened, plan.kind, _efforts(plan.kind, plan.sizes), self.queries, self.exact, rows, most_ms)
        return plan.index(efforts, *default_effort(efforts, self.recall_target))


def write(job: Job, plan: Plan) -> None:
    """Build the index over the vectors of the job's ``encode`` in its folder; files of a killed run stay."""
    encoded, path = job.inputs["encode"], job.folder / INDEX
    if plan.kind == "sharded":
        sharded.build(job.recipe.sharded, plan.sizes, Vectors(encoded / SHARDS), job.folder)
    elif not path.exists():
        write_index(build(plan.kind, plan.sizes, load_vectors(encoded)), path)


def plan_for(recipe: Recipe, rows: int, dim: int) -> Plan:
    """What the recipe makes of so many vectors; errors as of ``choose`` and ``sharded.sizes_of``."""
    kind, why = choose(recipe.index, rows, recipe.sharded.least_rows)
    if kind == "sharded":
        return Plan(kind, sharded.sizes_of(recipe.sharded, recipe.index.refine_factor, rows, dim), why)
    return Plan(kind, sizes_of(kind, recipe.index, rows, dim), why)


def write_description(described: Index, folder: Path) -> None:
    """Write what ``load_description`` reads, and tell why."""
    write_text(folder / DESCRIPTION, described.model_dump_json(indent=2))
    say(f"  {described.reason}")


def summary(described: Index, rows: int) -> Summary:
    """What the stage says of its index."""
    chosen = at_default(described)
    figures = {"effort": chosen.effort, "recall@10": chosen.recall_at_10, "p50 ms": chosen.p50_ms}
    return {"kind": described.kind, "rows": rows, **figures}


def at_default(described: Index) -> Effort:
    """The row of the effort table that is searched at."""
    return next(row for row in described.efforts if row.effort == described.default_effort)


def choose(config: IndexConfig, rows: int, sharded_rows: int) -> tuple[Kind, str]:
    """The kind of index for so many rows, and why; in several files above ``sharded_rows``.

    Raises:
        RecipeError: IVF-PQ is asked for on fewer rows than its codebooks need.
    """
    if config.kind == "milvus":
        raise RecipeError("index.kind: milvus is no file of FAISS; use auto, flat, hnsw or ivfpq for a walk that makes one")
    if config.kind == "ivfpq" and rows < _CENTROIDS:
        raise RecipeError(
            f"index.kind: ivfpq needs {_CENTROIDS} documents or more to train on, there are {rows}; use flat or hnsw"
        )
    if config.kind != "auto":
        return config.kind, f"{config.kind}: the recipe asks for it"
    if rows <= config.flat_rows:
        return "flat", f"flat: exact search is fast enough for {rows} rows (at most index.flat_rows, {config.flat_rows})"
    if rows <= config.hnsw_rows:
        return "hnsw", f"hnsw: {rows} rows are more than index.flat_rows ({config.flat_rows}), and their graph fits into memory"
    if rows <= sharded_rows:
        return "ivfpq", f"ivfpq: {rows} rows are more than index.hnsw_rows ({config.hnsw_rows})"
    return "sharded", f"sharded: {rows} rows are more than sharded.least_rows ({sharded_rows})"


def sizes_of(kind: Kind, config: IndexConfig, rows: int, dim: int) -> dict[str, int]:
    """What the manifest says of the kind beside its efforts.

    IVF has about 4 sqrt(rows) lists (the FAISS guidelines), and no more than its training points can place.
    """
    if kind == "hnsw":
        return {"m": config.m, "ef_construction": config.ef_construction}
    if kind == "ivfpq":
        nlist = max(1, min(round(4 * math.sqrt(rows)), rows // POINTS_PER_CENTROID))
        pq_bytes = max(size for size in range(1, max(1, dim // 4) + 1) if dim % size == 0)
        return {"nlist": nlist, "pq_bytes": pq_bytes, "refine_factor": config.refine_factor}
    return {}


def build(kind: Kind, sizes: Mapping[str, int], vectors: Floats) -> faiss.Index:
    """An index over float32[rows, dim]; row i of it is row i of ``vectors``."""
    index = _empty(kind, sizes, vectors.shape[1])
    if not index.is_trained:
        say(f"  training on a sample of {len(vectors)} vectors")
        index.train(_sample(vectors, sizes["nlist"]))
    for start in track(range(0, len(vectors), _ADD_ROWS), "index, blocks added"):
        index.add(vectors[start : start + _ADD_ROWS])
    return index


def _empty(kind: Kind, sizes: Mapping[str, int], dim: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, sizes["m"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = sizes["ef_construction"]
        return index
    base = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, sizes["nlist"], sizes["pq_bytes"], 8, faiss.METRIC_INNER_PRODUCT)
    for clustering in (base.cp, base.pq.cp):
        clustering.seed = _SEED
        clustering.min_points_per_centroid = 1  # else FAISS warns once a codebook; what few points cost stands in the efforts
    refined = faiss.IndexRefineFlat(base)
    refined.k_factor = sizes["refine_factor"]
    return refined


def _sample(vectors: Floats, nlist: int) -> Floats:
    size = max(_SAMPLE_ROWS, _SAMPLE_PER_LIST * nlist)
    if len(vectors) <= size:
        return vectors
    return vectors[np.sort(np.random.default_rng(_SEED).choice(len(vectors), size, replace=False))]


def _efforts(kind: Kind, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    if kind == "hnsw":
        return _HNSW_EFFORTS
    if kind in ("ivfpq", "sharded"):
        lists = sizes["nlist"]
        return tuple(sorted({lists, *(2**power for power in range(lists.bit_length()) if 2**power < lists)}))
    return (0,)


def _queries(job: Job) -> Floats:
    """The student's vectors of real queries."""
    spec = job.recipe.text.query
    count = job.recipe.index.probe_queries
    texts = probe_queries(Prepared(job.inputs["prepare"]), count)
    if job.source.parent is not None:  # whose data may have no query of its own, and no titles
        texts = list(dict.fromkeys([*parent_of(job.source).golden_queries, *texts]))[:count]
    return open_graph(job.inputs["export"], spec).encode([render_query(spec, text) for text in texts])


def on_server(recipe: Recipe, _source: Source) -> Mapping[str, Any]:
    """Where the vectors go, if they go to a server; how it is reached and what else points there changes nothing."""
    kept = {"uri", "database", "stored_fields", "effort_queries"}
    return {"milvus": recipe.milvus.model_dump(mode="json", include=kept)} if recipe.index.kind == "milvus" else {}


def still_there(job: Job, later: Sequence[str] = ("evaluate", "pack")) -> bool:
    """Whether the stages that read the index, ``later``, can: one on a server may be gone, or be another snapshot's by now."""
    described = load_description(job.folder)
    if described.kind != "milvus":
        return True
    from offline.milvus import serves  # as above

    return serves(job, described, later)


STAGE = Stage(
    name="index",
    run=run,
    needs=("prepare", "export", "encode"),
    sections=("text", "index", "sharded"),
    outside=on_server,
    still_holds=still_there,
)
