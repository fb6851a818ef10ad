"""The student as one ONNX graph, pooling, projection and normalisation inside; refused where it is not what torch computes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.data.prepared import Prepared
from offline.encoded import load_space, load_vectors
from offline.errors import DimensionError, ParityError
from offline.exported import FP32, INT8, MODEL, REPORT, TOKENIZER, ExportReport, Gate
from offline.graph import Graph, cosine_distance
from offline.probes import probe_queries
from offline.progress import say
from offline.quantize import batch_gate, judged_for_gate, ndcg_gate, quantize, remove_scratch
from offline.ranking import Floats
from offline.stages import Job, Stage, Summary
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import atomic_write, write_text
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_PARITY_TEXTS = 200
_PARITY_BATCHES = (1, 16)


@dataclass(frozen=True)
class _Work:
    job: Job
    prepared: Prepared
    spec: TextSpec
    tower: SentenceTransformer
    space: str
    texts: Sequence[str]

    @property
    def pad_token_id(self) -> int:
        return int(self.tower.tokenizer.pad_token_id or 0)

    def graph(self, name: str) -> Graph:
        folder = self.job.folder
        return Graph.open(folder / name, folder / TOKENIZER, self.spec, pad_token_id=self.pad_token_id)


def run(job: Job) -> Summary:
    """Export, compare with torch, quantise if the gates allow it.

    Raises:
        DimensionError: the student's vectors have another width than the documents'.
        ParityError: the fp32 graph differs from torch, or int8 is demanded and fails a gate.
        RecipeError: the student is too large for one ONNX file.
    """
    work = _begin(job)
    write_tokenizer(work.tower, job.folder / TOKENIZER)
    write_graph(to_onnx(work.tower), work.space, job.folder / FP32)
    parity = _parity(work)
    precision, reason, gates = _choose(work)
    with (job.folder / f"{precision}.onnx").open("rb") as chosen, atomic_write(job.folder / MODEL) as copy:
        shutil.copyfileobj(chosen, copy)
    report = ExportReport(
        precision=precision,
        reason=reason,
        gates=(parity, *gates),
        layers=int(towers.backbone_of(work.tower).config.num_hidden_layers),
        parameters=towers.count_parameters(work.tower),
        pad_token_id=work.pad_token_id,
        dim=work.graph(MODEL).dim,
    )
    write_text(job.folder / REPORT, report.model_dump_json(indent=2))
    say(f"  {reason}")
    return {"precision": precision, "parity": parity.value, "megabytes": (job.folder / MODEL).stat().st_size / 1e6}


def _begin(job: Job) -> _Work:
    prepared = Prepared(job.inputs["prepare"])
    spec = job.recipe.text.query
    tower = towers.load_tower(job.inputs["distill"] / "student").to("cpu").float().eval()
    space = load_space(job.inputs["encode"])
    dim = towers.tower_dim(tower)
    if dim != space.dim:
        raise DimensionError(
            f"{job.inputs['distill'] / 'student'}: its vectors have {dim} dimensions, the documents' have {space.dim}; "
            "run the stage distill again"
        )
    texts = [render_query(spec, text) for text in probe_queries(prepared, _PARITY_TEXTS)]
    remove_scratch(job.folder)
    return _Work(job, prepared, spec, tower, space.fingerprint, texts)


def _parity(work: _Work) -> Gate:
    torch_vectors = towers.encode(work.tower, work.spec, work.texts, batch_size=32)
    found = parity_gate(work.graph(FP32), torch_vectors, work.texts, work.job.recipe.export.max_parity_distance)
    if not found.passed:
        raise ParityError(
            f"{work.job.folder / FP32}: {found.detail}; the graph is not the student. Other versions of torch and onnx may "
            "export it right; export.max_parity_distance is the bound"
        )
    return found


def parity_gate(graph: Graph, torch_vectors: Floats, texts: Sequence[str], limit: float) -> Gate:
    """Compare the graph with the torch tower's vectors float32[n, dim] of the same rendered texts, alone and in batches."""
    worst = float(np.max([cosine_distance(graph.encode(texts, size), torch_vectors) for size in _PARITY_BATCHES]))
    return Gate.compare(
        "parity_distance", worst, limit, f"1 - cosine between torch and fp32 ONNX on {len(texts)} queries is up to"
    )


def _choose(work: _Work) -> tuple[Literal["fp32", "int8"], str, tuple[Gate, ...]]:
    wanted = work.job.recipe.export
    if wanted.precision == "fp32":
        return "fp32", "fp32: the recipe asks for it", ()
    write_graph(quantize(work.job.folder / FP32), work.space, work.job.folder / INT8)
    gates = (
        batch_gate(work.graph(INT8), work.texts, wanted.max_batch_distance),
        ndcg_gate(
            work.graph(FP32),
            work.graph(INT8),
            judged_for_gate(work.prepared, work.job.recipe),
            work.spec,
            load_vectors(work.job.inputs["encode"]),
            wanted.max_int8_ndcg_loss,
        ),
    )
    failed = "; ".join(found.detail for found in gates if not found.passed)
    if not failed:
        return "int8", f"int8 passes its gates: {'; '.join(found.detail for found in gates)}", gates
    if wanted.precision == "int8":
        raise ParityError(f"export.precision is int8, which fails: {failed}; set it to auto or fp32, or loosen the bound")
    return "fp32", f"fp32, since int8 fails: {failed}", gates


STAGE = Stage(name="export", run=run, needs=("prepare", "train", "distill", "encode"), sections=("data", "text", "export"))
