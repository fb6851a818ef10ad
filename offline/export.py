"""The student as one ONNX graph, pooling, projection and normalisation inside; refused where it is not what torch computes.

What is served is that graph, or an int8 one made of it that is faster and passes its gates.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.candidates import CANDIDATES, choose, measure
from offline.data.prepared import Prepared
from offline.encoded import SHARDS, Vectors, load_space
from offline.errors import DimensionError, ParityError
from offline.exported import MODEL, REPORT, TOKENIZER, ExportReport, Gate, Trial
from offline.gates import batch_gate, judged_for_gate, ndcg_gate
from offline.graph import Graph, cosine_distance
from offline.judged import Judged
from offline.probes import probe_queries
from offline.progress import say
from offline.quantize import observe
from offline.ranking import Floats
from offline.stages import Job, Stage, Summary
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import atomic_write, write_text
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_PARITY_TEXTS = 200
_PARITY_BATCHES = (1, 16)
_CALIBRATION_TEXTS = 500
_TIMED_TEXTS = 32
_BASELINE = "fp32"


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

    def path(self, name: str) -> Path:
        return self.job.folder / f"{name}.onnx"

    def graph(self, name: str) -> Graph:
        return Graph.open(self.path(name), self.job.folder / TOKENIZER, self.spec, pad_token_id=self.pad_token_id)


def run(job: Job) -> Summary:
    """Export, compare with torch, make what may be faster, and choose by gates and measurement.

    Raises:
        DimensionError: the student's vectors have another width than the documents'.
        ParityError: the fp32 graph differs from torch, or int8 is demanded and fails a gate.
        RecipeError: the student is too large for one ONNX file.
    """
    work = _begin(job)
    write_tokenizer(work.tower, job.folder / TOKENIZER)
    model = to_onnx(work.tower)
    baseline = _baseline(work, model)
    others = _others(work, model) if job.recipe.export.precision != "fp32" else ()
    chosen, reason = choose(baseline, others, job.recipe.export)
    with work.path(chosen.name).open("rb") as served, atomic_write(job.folder / MODEL) as copy:
        shutil.copyfileobj(served, copy)
    report = ExportReport(
        name=chosen.name,
        precision=chosen.precision,
        reason=reason,
        trials=(baseline, *others),
        layers=int(towers.backbone_of(work.tower).config.num_hidden_layers),
        parameters=towers.count_parameters(work.tower),
        pad_token_id=work.pad_token_id,
        dim=work.graph(chosen.name).dim,
    )
    write_text(job.folder / REPORT, report.model_dump_json(indent=2))
    say(f"  {reason}")
    return {"graph": chosen.name, "parity": baseline.distance, "speedup": chosen.speedup, "megabytes": chosen.megabytes}


def _begin(job: Job) -> _Work:
    prepared = Prepared(job.inputs["prepare"])
    spec = job.recipe.text.query
    tower = towers.load_tower(job.inputs["refine"] / "student").to("cpu").float().eval()
    space = load_space(job.inputs["encode"])
    dim = towers.tower_dim(tower)
    if dim != space.dim:
        raise DimensionError(
            f"{job.inputs['refine'] / 'student'}: its vectors have {dim} dimensions, the documents' have {space.dim}; "
            "run the stages distill and refine again"
        )
    texts = [render_query(spec, text) for text in probe_queries(prepared, _PARITY_TEXTS)]
    return _Work(job, prepared, spec, tower, space.fingerprint, texts)


def _baseline(work: _Work, model: onnx.ModelProto) -> Trial:
    write_graph(model, work.space, work.path(_BASELINE))
    torch_vectors = towers.encode(work.tower, work.spec, work.texts, batch_size=32)
    found = parity_gate(work.graph(_BASELINE), torch_vectors, work.texts, work.job.recipe.export.max_parity_distance)
    if not found.passed:
        raise ParityError(
            f"{work.path(_BASELINE)}: {found.detail}; the graph is not the student. Other versions of torch and onnx may "
            "export it right; export.max_parity_distance is the bound"
        )
    return Trial(
        name=_BASELINE,
        precision="fp32",
        gates=(found,),
        distance=found.value,
        speedup=1.0,
        megabytes=_megabytes(work.path(_BASELINE)),
    )


def parity_gate(graph: Graph, torch_vectors: Floats, texts: Sequence[str], limit: float) -> Gate:
    """Compare the graph with the torch tower's vectors float32[n, dim] of the same rendered texts, alone and in batches."""
    worst = float(np.max([cosine_distance(graph.encode(texts, size), torch_vectors) for size in _PARITY_BATCHES]))
    return Gate.compare(
        "parity_distance", worst, limit, f"1 - cosine between torch and fp32 ONNX on {len(texts)} queries is up to"
    )


def _others(work: _Work, model: onnx.ModelProto) -> tuple[Trial, ...]:
    """Every candidate made, held against its gates, and timed beside fp32."""
    baseline = work.graph(_BASELINE)
    ranges = observe(model, (baseline.feed([text]) for text in _calibration_texts(work)))
    for candidate in CANDIDATES:
        write_graph(candidate.make(model, ranges), work.space, work.path(candidate.name))
    graphs = {candidate.name: work.graph(candidate.name) for candidate in CANDIDATES}
    taken = measure({_BASELINE: baseline, **graphs}, work.texts[:_TIMED_TEXTS])
    judged = judged_for_gate(work.prepared, work.job.recipe)
    expected = baseline.encode(work.texts)
    return tuple(
        Trial(
            name=candidate.name,
            precision=candidate.precision,
            gates=_gates(work, baseline, graphs[candidate.name], judged),
            distance=float(np.max(cosine_distance(graphs[candidate.name].encode(work.texts), expected))),
            speedup=taken[_BASELINE] / taken[candidate.name],
            megabytes=_megabytes(work.path(candidate.name)),
        )
        for candidate in CANDIDATES
    )


def _gates(work: _Work, baseline: Graph, graph: Graph, judged: Judged) -> tuple[Gate, ...]:
    config, documents = work.job.recipe.export, Vectors(work.job.inputs["encode"] / SHARDS)
    return (
        batch_gate(graph, work.texts, config.max_batch_distance),
        ndcg_gate(baseline, graph, judged, work.spec, documents, config.max_int8_ndcg_loss),
    )


def _calibration_texts(work: _Work) -> list[str]:
    """Rendered texts of those that the student learned on, at even distances; held-out queries are not among them."""
    texts = [render_query(work.spec, text) for text in work.prepared.texts.column("text").to_pylist()]
    texts = [text for text in texts if text]
    return texts[:: max(1, len(texts) // _CALIBRATION_TEXTS)]


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


STAGE = Stage(
    name="export",
    run=run,
    needs=("prepare", "train", "encode", "refine"),
    sections=("data", "text", "export"),
    version=2,
)
