"""A snapshot put together and sealed from parts that any walk has made."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from offline.changes import Hashes
from offline.errors import DimensionError
from offline.exported import MODEL, TOKENIZER, load_report, open_graph
from offline.graph import Graph, cosine_distance
from offline.publish import COLLECTION
from offline.ranking import Blocks, Floats, exact_top_k, recall, scores_of, ties_as_found
from offline.served import Served, Sized, open_served
from offline.stages import Job, Summary
from snapshot.errors import CountMismatchError, SpaceMismatchError
from snapshot.files import atomic_write, write_text
from snapshot.layout import Layout, TeacherLayout
from snapshot.manifest import Column, Documents, Golden, MilvusIndex, QueryTower, Retention, Space
from snapshot.seal import Draft, seal
from snapshot.text import render_query

_STAGING = "staging"
_DISTANCE_BOUND = 1e-4
"""Between torch and the served graph: another CPU sums in another order and lands 1e-6 away, a wrong tower 0.1 and more."""
_RECALL_MARGIN = 0.05
"""Golden recall may be so much lower than measured here: vectors that differ in the last bits reorder near ties."""
_LIBRARIES = (
    "scalingnote",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "faiss-cpu",
    "numpy",
    "pyarrow",
)


@dataclass(frozen=True)
class Probes:
    """Raw golden queries and their vectors float32[q, dim] by the torch tower."""

    queries: Sequence[str]
    vectors: Floats


@dataclass(frozen=True)
class Content:
    """What goes into a snapshot beside the folders ``export`` and ``index`` of the job's inputs.

    Attributes:
        vectors: float32[documents, dim], row i of which is row i of the index.
        write_documents: fills the snapshot's folder of documents and returns their columns.
        text_hashes: uint8[documents, 32]; None where ``write_documents`` brings them.
        report: file by its path below ``report/``.
        bring_teacher: writes the teacher's query tower and describes it; None where it does not come along.
    """

    space: Space
    vectors: Floats | Blocks
    documents: int
    write_documents: Callable[[Path], tuple[Column, ...]]
    text_hashes: Hashes | None
    probes: Probes
    report: Mapping[str, Path]
    retention: Retention | None
    parent: str | None = None
    bring_teacher: Callable[[TeacherLayout], QueryTower | None] = lambda _: None


def assemble(job: Job, content: Content) -> Summary:
    """Seal ``<job.folder>/<id>/``.

    Raises:
        SpaceMismatchError: the graph was made for other document vectors.
        DimensionError, CountMismatchError: tower, vectors, index and documents do not fit each other.
    """
    _remove_older(job.folder)
    graph = open_graph(job.inputs["export"], job.recipe.text.query)
    index = open_served(job.inputs["index"], job.recipe)
    check(graph, content.space, index, content.vectors, content.documents)
    layout = Layout(job.folder / _STAGING)
    columns = content.write_documents(layout.documents)
    if content.text_hashes is not None:
        with atomic_write(layout.text_hashes) as handle:
            np.save(handle, content.text_hashes)
    _bring(job, content, layout)
    index.bring(layout)
    if isinstance(index.described, MilvusIndex):
        write_text(job.folder / COLLECTION, index.described.collection)
    golden = _write_golden(job, content, graph, index, layout)
    sealed = seal(
        layout.root,
        Draft(
            name=job.recipe.name,
            space=content.space,
            query_tower=_query_tower(job),
            document_text=job.recipe.text.document,
            index=index.described,
            documents=Documents(count=content.documents, columns=columns),
            golden=golden,
            retention=content.retention,
            parent=content.parent,
            teacher_tower=content.bring_teacher(layout.teacher),
            build={"python": platform.python_version(), **{library: version(library) for library in _LIBRARIES}},
        ),
    )
    size = sum(path.stat().st_size for path in sealed.rglob("*") if path.is_file())
    parent = {} if content.parent is None else {"parent": content.parent}
    figures = {"megabytes": size / 1e6, "golden queries": golden.queries, "min recall": golden.min_recall}
    return {"snapshot": sealed.name, **parent, **figures}


def check(graph: Graph, space: Space, index: Sized, vectors: Floats | Blocks, documents: int) -> None:
    """Refuse parts that do not belong together, by the name of what differs."""
    if graph.space != space.fingerprint:
        raise SpaceMismatchError(
            f"the query tower was exported for the document space {graph.space}, the vectors are of {space.fingerprint}; "
            "run the stages distill and export again"
        )
    widths = {"the query tower": graph.dim, "the space": space.dim, "the vectors": vectors.shape[1], "the index": index.d}
    if len(set(widths.values())) > 1:
        raise DimensionError(f"widths differ: {_list(widths)}; run the stages encode, export and index again")
    counts = {"the documents": documents, "the vectors": len(vectors), "the index": index.ntotal}
    if len(set(counts.values())) > 1:
        raise CountMismatchError(f"row counts differ: {_list(counts)}; run the stages encode and index again")


def _list(figures: dict[str, int]) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())


def _remove_older(folder: Path) -> None:
    """What a killed run staged, or sealed without finishing the stage."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def _bring(job: Job, content: Content, layout: Layout) -> None:
    """Copies of all but index and documents."""
    export = job.inputs["export"]
    files = {export / MODEL: layout.model, export / TOKENIZER: layout.tokenizer}
    files |= {path: layout.report / name for name, path in content.report.items()}
    for path, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _write_golden(job: Job, content: Content, graph: Graph, index: Served, layout: Layout) -> Golden:
    """Probe queries answered by torch and brute force, and how far the exported tower and the index are from that.

    Of documents that are equally good those are golden that the index finds: the proof is about the index, not about ties.
    """
    queries, vectors = content.probes.queries, content.probes.vectors
    exact = exact_top_k(vectors, content.vectors, job.recipe.pack.golden_k)
    answers = index.search(vectors, exact[1].shape[1])
    rows = ties_as_found(exact, (scores_of(vectors, content.vectors, answers), answers))
    layout.golden.mkdir(parents=True)
    write_text(layout.golden_queries, json.dumps(list(queries), ensure_ascii=False))
    np.save(layout.golden_vectors, vectors)
    np.save(layout.golden_rows, rows)
    texts = [render_query(job.recipe.text.query, query) for query in queries]
    served = [graph.encode(texts, batch_size) for batch_size in (1, len(texts))]
    distance = float(np.max([cosine_distance(found, vectors) for found in served]))
    found = recall(index.search(served[0], rows.shape[1]), rows)
    return Golden(
        queries=len(queries),
        k=rows.shape[1],
        max_cosine_distance=max(_DISTANCE_BOUND, 2 * distance),
        min_recall=max(0.0, found - _RECALL_MARGIN),
    )


def _query_tower(job: Job) -> QueryTower:
    report = load_report(job.inputs["export"])
    return QueryTower(
        text=job.recipe.text.query,
        precision=report.precision,
        layers=report.layers,
        parameters=report.parameters,
        pad_token_id=report.pad_token_id,
        reason=report.reason,
    )
