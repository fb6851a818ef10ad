"""The teacher's query tower beside the student, where the recipe wants it: services compare live queries with it."""

from __future__ import annotations

from pathlib import Path

from offline import towers
from offline.data.prepared import Prepared
from offline.encoded import load_space
from offline.errors import ParityError
from offline.export import parity_gate
from offline.graph import Graph
from offline.parent import Parent
from offline.probes import probe_queries
from offline.progress import say
from offline.stages import Job
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import link_or_copy
from snapshot.layout import TeacherLayout
from snapshot.manifest import QueryTower
from snapshot.text import render_query

_PROBES = 32


def bring_teacher(job: Job, layout: TeacherLayout) -> QueryTower | None:
    """Export the teacher in fp32 and compare it with torch; None where ``pack.teacher`` does not ask for it.

    Raises:
        ParityError: the graph differs from torch.
        RecipeError: the teacher is too large for one ONNX file.
    """
    if not job.recipe.pack.teacher:
        return None
    spec = job.recipe.text.query
    tower = towers.load_tower(job.inputs["train"] / "query_tower").to("cpu").float().eval()
    layout.model.parent.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tower, layout.tokenizer)
    write_graph(to_onnx(tower), load_space(job.inputs["encode"]).fingerprint, layout.model)
    described = QueryTower(
        text=spec,
        precision="fp32",
        layers=int(towers.backbone_of(tower).config.num_hidden_layers),
        parameters=towers.count_parameters(tower),
        pad_token_id=int(tower.tokenizer.pad_token_id or 0),
        reason="fp32: it is what others are compared with",
    )
    texts = [render_query(spec, text) for text in probe_queries(Prepared(job.inputs["prepare"]), _PROBES)]
    graph = Graph.open(layout.model, layout.tokenizer, spec, pad_token_id=described.pad_token_id)
    vectors = towers.encode(tower, spec, texts, batch_size=32)
    found = parity_gate(graph, vectors, texts, job.recipe.export.max_parity_distance)
    if not found.passed:
        raise ParityError(
            f"{layout.model}: {found.detail}; the graph is not the teacher: leave it out with --set pack.teacher=false"
        )
    say(f"  the teacher's query tower comes along: {_megabytes(layout.model):.0f} MB")
    return described


def keep_teacher(parent: Parent, layout: TeacherLayout) -> QueryTower | None:
    """Link that of the parent, whose towers are taken over; None where it has none."""
    before = parent.layout.teacher
    if parent.manifest.teacher_tower is not None:
        layout.model.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(before.model, layout.model)
        link_or_copy(before.tokenizer, layout.tokenizer)
    return parent.manifest.teacher_tower


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
