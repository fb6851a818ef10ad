"""The retrieval systems that are compared, from BM25 to what is served, each as rankings of the same queries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.baselines import Bm25
from offline.data.prepared import Prepared
from offline.encoded import SHARDS, Vectors
from offline.errors import RecipeError
from offline.exported import FP32, MODEL, TOKENIZER, load_report, open_graph
from offline.graph import Graph
from offline.index import load_description
from offline.judged import Judged
from offline.metrics import DEPTH, Rows, merge_depths
from offline.progress import say, track
from offline.ranking import Floats, exact_top_k
from offline.refine import was_refined
from offline.served import open_served
from offline.stages import Job
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import atomic_write
from snapshot.text import render, render_query

BM25 = "bm25"
ZERO_SHOT = "zero-shot"
TEACHER = "teacher"
DISTILLED = "student-distilled"
STUDENT = "student"
FP32_GRAPH = "student-fp32"
INT8_GRAPH = "student-int8"
SERVED = "served"

_PAGE = 10
_BATCH = 64
_BLOCK_ROWS = 2048
SCRATCH = "scratch"
"""What a killed run goes on from, and what is needed for a moment."""


@dataclass(frozen=True)
class Ranked:
    """One system's answers.

    Attributes:
        rows: int64[q, at most 100], best first, without the query's own document; -1 where fewer were found.
        judged_only: for each query its judged rows alone, best first; None where another system has the same.
    """

    name: str
    title: str
    rows: Rows
    judged_only: Sequence[Rows] | None


class Workbench:
    """What earlier stages made, opened when first asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.prepared = Prepared(job.inputs["prepare"])
        self.export = load_report(job.inputs["export"])
        self.index = load_description(job.inputs["index"])

    @cached_property
    def documents(self) -> Vectors:
        """float32[documents, dim] of the trained document tower."""
        return Vectors(self.job.inputs["encode"] / SHARDS)

    @property
    def teacher(self) -> SentenceTransformer:
        return towers.load_tower(self.job.inputs["train"] / "query_tower")

    @property
    def document_tower(self) -> SentenceTransformer:
        return towers.load_tower(self.job.inputs["train"] / "document_tower")

    @property
    def distilled(self) -> SentenceTransformer | None:
        """The student before refinement; None where refinement handed it on as it is."""
        if not was_refined(self.job.inputs["refine"]):
            return None
        return towers.load_tower(self.job.inputs["distill"] / "student")

    @property
    def student(self) -> SentenceTransformer:
        return towers.load_tower(self.job.inputs["refine"] / "student")

    @property
    def backbone(self) -> SentenceTransformer:
        """What both towers were before training."""
        return towers.build_tower(self.job.recipe.train.backbone, self.job.recipe.train.pooling)

    def by_torch(self, tower: SentenceTransformer, queries: Sequence[str]) -> Floats:
        """Query vectors float32[q, dim]."""
        return towers.encode(tower, self.job.recipe.text.query, self.rendered(queries), _BATCH)

    def by_graph(self, model: str, queries: Sequence[str]) -> Floats:
        """Query vectors float32[q, dim] of one of the exported files, one query at a time as the service does."""
        return open_graph(self.job.inputs["export"], self.job.recipe.text.query, model).encode(self.rendered(queries))

    def teacher_graph(self, teacher: SentenceTransformer) -> Graph | None:
        """The teacher's query tower in the runtime that serves, fp32; None where it does not fit into one file."""
        folder = self.job.folder / SCRATCH
        try:
            write_graph(to_onnx(teacher), "", folder / "teacher.onnx")
        except RecipeError as error:
            say(f"  the teacher is not timed in onnxruntime: {error}")
            return None
        write_tokenizer(teacher, folder / TOKENIZER)
        pad = int(teacher.tokenizer.pad_token_id or 0)
        return Graph.open(folder / "teacher.onnx", folder / TOKENIZER, self.job.recipe.text.query, pad_token_id=pad)

    def rendered(self, queries: Sequence[str]) -> list[str]:
        return [render_query(self.job.recipe.text.query, query) for query in queries]

    def search_page(self, vectors: Floats, judged: Judged) -> Rows:
        """int64[q, 10] of the index at its default effort: the page that callers get."""
        index = open_served(self.job.inputs["index"], self.job.recipe)
        return judged.without_own(index.search(vectors, judged.depth(_PAGE)), _PAGE)

    def search(self, vectors: Floats, judged: Judged | None = None) -> Rows:
        """int64[q, at most 100] of the index at its default effort: the page of ten that callers get, then more."""
        index = open_served(self.job.inputs["index"], self.job.recipe)
        if judged is None:
            return merge_depths(*(index.search(vectors, k) for k in (_PAGE, DEPTH)))
        return merge_depths(*(judged.without_own(index.search(vectors, judged.depth(k)), k) for k in (_PAGE, DEPTH)))


def rank_all(bench: Workbench, judged: Judged, baselines: bool = True) -> Iterator[Ranked]:
    """Every system on the judged queries, in the order of the report: baselines, teacher, then each step to what is served."""
    if baselines:
        yield _bm25(bench, judged)
        yield _zero_shot(bench, judged)
    towers_in_torch = (
        (TEACHER, "teacher", bench.teacher),
        (DISTILLED, "student, distilled, in torch", bench.distilled),
        (STUDENT, "student in torch", bench.student),
    )
    for name, title, tower in towers_in_torch:
        if tower is not None:
            yield _exact(name, title, bench.by_torch(tower, judged.texts), bench.documents, judged)
    vectors = bench.by_graph(FP32, judged.texts)
    yield _exact(FP32_GRAPH, "student, fp32 graph", vectors, bench.documents, judged)
    if bench.export.precision == "int8":
        vectors = bench.by_graph(MODEL, judged.texts)
        yield _exact(INT8_GRAPH, "student, int8 graph", vectors, bench.documents, judged)
    say(f"  {SERVED}")
    yield Ranked(SERVED, f"as served ({bench.index.kind} index)", bench.search(vectors, judged), judged_only=None)


def _zero_shot(bench: Workbench, judged: Judged) -> Ranked:
    backbone = bench.backbone
    untouched = _untouched_documents(bench, backbone)
    return _exact(ZERO_SHOT, "backbone, untouched", bench.by_torch(backbone, judged.texts), untouched, judged)


def forget_scratch(folder: Path) -> None:
    """Remove what is not part of the report."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)


def _bm25(bench: Workbench, judged: Judged) -> Ranked:
    say(f"  {BM25}")
    texts = bench.prepared.tower_texts
    bm25 = Bm25(texts.column("title").to_pylist(), texts.column("text").to_pylist())
    judged_only = None
    if judged.is_pooled:
        judged_only = [
            _best_first(rows, bm25.scores(query)[rows]) for query, rows in zip(judged.texts, _judged_rows(judged), strict=True)
        ]
    rows = judged.without_own(bm25.rank(judged.texts, judged.depth(DEPTH)), DEPTH)
    return Ranked(BM25, "BM25", rows, judged_only)


def _exact(name: str, title: str, queries: Floats, documents: Floats | Vectors, judged: Judged) -> Ranked:
    say(f"  {name}")
    take = documents.__getitem__ if isinstance(documents, np.ndarray) else documents.take
    judged_only = None
    if judged.is_pooled:
        judged_only = [_best_first(rows, take(rows) @ query) for query, rows in zip(queries, _judged_rows(judged), strict=True)]
    rows = judged.without_own(exact_top_k(queries, documents, judged.depth(DEPTH))[1], DEPTH)
    return Ranked(name, title, rows, judged_only)


def _judged_rows(judged: Judged) -> list[Rows]:
    return [np.array(sorted(scores), np.int64) for scores in judged.judgements]


def _best_first(rows: Rows, scores: Floats) -> Rows:
    return rows[np.argsort(-scores, kind="stable")]


def _untouched_documents(bench: Workbench, backbone: SentenceTransformer) -> Floats:
    """float32[documents, dim], in blocks that a killed run finds again."""
    spec = bench.job.recipe.text.document
    table = bench.prepared.tower_texts
    blocks = []
    for start in track(range(0, table.num_rows, _BLOCK_ROWS), "documents through the untouched backbone, blocks"):
        path = bench.job.folder / SCRATCH / f"{start:09}.npy"
        if not path.exists():
            texts = [render(spec, row) for row in table.slice(start, _BLOCK_ROWS).to_pylist()]
            with atomic_write(path) as handle:
                np.save(handle, towers.encode(backbone, spec, texts, _BATCH))
        blocks.append(np.load(path))
    return np.concatenate(blocks)
