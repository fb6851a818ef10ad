"""Everything that is served, sealed as one snapshot, with a golden set from torch and brute force to prove it by."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
from pydantic import TypeAdapter

from offline import towers
from offline.data.prepared import Prepared
from offline.efforts import open_index, search_as_served
from offline.encoded import load_space, load_vectors
from offline.errors import DimensionError
from offline.exported import MODEL, REPORT, TOKENIZER, load_report, open_graph
from offline.graph import Graph, cosine_distance
from offline.index import INDEX, load_description
from offline.probes import probe_queries
from offline.ranking import Floats, exact_top_k, recall
from offline.stages import CONFIG, INPUTS, RECEIPT, Job, Stage, Summary
from snapshot.documents import write_documents
from snapshot.errors import CountMismatchError, SpaceMismatchError
from snapshot.files import write_text
from snapshot.layout import Layout
from snapshot.manifest import Documents, Golden, Index, QueryTower, Retention, Space
from snapshot.seal import Draft, seal
from snapshot.text import render_query

_STAGING = "staging"
_FINDINGS = "report.json"
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
class _Parts:
    """What earlier stages made; ``vectors`` are float32[rows, dim]."""

    prepared: Prepared
    graph: Graph
    space: Space
    vectors: Floats
    index: faiss.Index
    described: Index


def run(job: Job) -> Summary:
    """Assemble and seal ``<job.folder>/<id>/``.

    Raises:
        SpaceMismatchError: the graph was made for other document vectors.
        DimensionError, CountMismatchError: tower, vectors, index and documents do not fit each other.
    """
    _remove_older(job.folder)
    parts = _load(job)
    check(parts.graph, parts.space, parts.index, parts.vectors, parts.prepared.documents.num_rows)
    layout = Layout(job.folder / _STAGING)
    columns = write_documents(parts.prepared.documents, layout.documents)
    _copy(job, layout)
    golden = _write_golden(job, parts, layout)
    sealed = seal(
        layout.root,
        Draft(
            name=job.recipe.name,
            space=parts.space,
            query_tower=_query_tower(job),
            document_text=job.recipe.text.document,
            index=parts.described,
            documents=Documents(count=parts.prepared.documents.num_rows, columns=columns),
            golden=golden,
            retention=_retention(job.inputs["evaluate"]),
            build={"python": platform.python_version(), **{library: version(library) for library in _LIBRARIES}},
        ),
    )
    size = sum(path.stat().st_size for path in sealed.rglob("*") if path.is_file())
    return {"snapshot": sealed.name, "megabytes": size / 1e6, "golden queries": golden.queries, "min recall": golden.min_recall}


def check(graph: Graph, space: Space, index: faiss.Index, vectors: Floats, documents: int) -> None:
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


def _load(job: Job) -> _Parts:
    return _Parts(
        prepared=Prepared(job.inputs["prepare"]),
        graph=open_graph(job.inputs["export"], job.recipe.text.query),
        space=load_space(job.inputs["encode"]),
        vectors=load_vectors(job.inputs["encode"]),
        index=open_index(job.inputs["index"] / INDEX),
        described=load_description(job.inputs["index"]),
    )


def _remove_older(folder: Path) -> None:
    """What a killed run staged, or sealed without finishing the stage."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def _copy(job: Job, layout: Layout) -> None:
    """Copies, not links: a stage that runs again must not reach into a sealed snapshot."""
    export, evaluate = job.inputs["export"], job.inputs["evaluate"]
    files = {
        export / MODEL: layout.model,
        export / TOKENIZER: layout.tokenizer,
        export / REPORT: layout.report / REPORT,
        job.inputs["index"] / INDEX: layout.index,
    }
    own = {RECEIPT, INPUTS, CONFIG}
    proofs = [path for path in evaluate.rglob("*") if path.is_file() and path.relative_to(evaluate).as_posix() not in own]
    files |= {path: layout.report / path.relative_to(evaluate) for path in proofs}
    for path, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _write_golden(job: Job, parts: _Parts, layout: Layout) -> Golden:
    """Probe queries answered by torch and brute force, and how far the exported tower and the index are from that."""
    spec, config = job.recipe.text.query, job.recipe.pack
    queries = probe_queries(parts.prepared, config.golden_queries)
    texts = [render_query(spec, query) for query in queries]
    student = towers.load_tower(job.inputs["distill"] / "student").to("cpu").float()  # a GPU would compute in bf16
    vectors = towers.encode(student, spec, texts, batch_size=32)
    _, rows = exact_top_k(vectors, parts.vectors, config.golden_k)
    layout.golden.mkdir(parents=True)
    write_text(layout.golden_queries, json.dumps(queries, ensure_ascii=False))
    np.save(layout.golden_vectors, vectors)
    np.save(layout.golden_rows, rows)
    served = [parts.graph.encode(texts, batch_size) for batch_size in (1, len(texts))]
    distance = float(np.max([cosine_distance(found, vectors) for found in served]))
    found = recall(search_as_served(parts.index, parts.described, served[0], rows.shape[1]), rows)
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


def _retention(folder: Path) -> Retention | None:
    found = json.loads((folder / _FINDINGS).read_text(encoding="utf-8"))["retention"]
    return TypeAdapter[Retention | None](Retention | None).validate_python(found)


STAGE = Stage(
    name="pack",
    run=run,
    needs=("prepare", "distill", "export", "encode", "index", "evaluate"),
    sections=("text", "pack"),
    outside=lambda recipe, _source: {"name": recipe.name},
)
