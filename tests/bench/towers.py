"""What needs torch: the graphs of the query towers, and the vectors of the documents by the whole backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.graph import Graph
from offline.quantize import observe, static_int8
from offline.ranking import Floats
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import write_text
from snapshot.manifest import QueryTower
from snapshot.text import render, render_query
from tests.bench.corpus import Corpus
from tests.bench.students import ALIGNED, BACKBONE, DIM, DOCUMENT_TEXT, LAYERS, QUERY_TEXT, SPACE, Precision, Student

_GOLDEN = 64
_CALIBRATION = 500
_RIDGE = 1e-2


def encode_documents(corpus: Corpus) -> Floats:
    """Vectors float32[n, dim] of the corpus by the whole backbone, L2-normalised."""
    fields = ({"title": title, "text": text} for title, text in zip(corpus.titles, corpus.texts, strict=True))
    tower = towers.build_tower(BACKBONE).to("cpu").float()
    return towers.encode(tower, DOCUMENT_TEXT, [render(DOCUMENT_TEXT, each) for each in fields], progress="documents encoded")


def make_tower(student: Student, corpus: Corpus, layers: int, precision: Precision = "fp32") -> None:
    """Write graph, tokenizer, golden vectors and description into the student's folder."""
    teacher = towers.build_tower(BACKBONE).to("cpu").float().eval()
    tower = teacher if layers == 6 else _aligned(teacher, LAYERS[layers], _spread(corpus.titles + corpus.queries, ALIGNED))
    write_tokenizer(tower, student.tokenizer)
    write_graph(to_onnx(tower), SPACE.fingerprint, student.model)
    golden = [render_query(QUERY_TEXT, text) for text in corpus.probes[:_GOLDEN]]
    np.save(student.golden_vectors, towers.encode(tower, QUERY_TEXT, golden))
    if precision == "int8":
        _quantize(student, tower, [render_query(QUERY_TEXT, text) for text in _spread(corpus.probes, _CALIBRATION)])
        np.save(student.golden_vectors, Graph.open(student.model, student.tokenizer, QUERY_TEXT).encode(golden))
    described = QueryTower(
        text=QUERY_TEXT,
        precision=precision,
        layers=layers,
        parameters=towers.count_parameters(tower),
        pad_token_id=int(tower.tokenizer.pad_token_id),
        reason="bench",
    )
    write_text(student.folder / "tower.json", json.dumps(described.model_dump(), indent=2))


def _quantize(student: Student, tower: SentenceTransformer, texts: Sequence[str]) -> None:
    """Put the graph that ``offline.export`` tries first in place of the fp32 one."""
    graph, model = Graph.open(student.model, student.tokenizer, QUERY_TEXT), to_onnx(tower)
    ranges = observe(model, (graph.feed([text]) for text in texts))
    write_graph(static_int8(model, ranges), SPACE.fingerprint, student.model)


def _aligned(teacher: SentenceTransformer, layers: Sequence[int], texts: Sequence[str]) -> SentenceTransformer:
    """Cut, with a linear map (ridge regression) to what the whole tower makes of ``texts``.

    Without it a cut tower's queries lie in a corner of the space where there are no documents, and every search is as
    hard as the hardest. Distillation proper takes half an hour and gives a graph of the same cost.
    """
    cut = towers.take_layers(teacher, layers)
    before, wanted = (towers.encode(tower, QUERY_TEXT, texts, progress="texts encoded") for tower in (cut, teacher))
    matrix = np.linalg.solve(before.T @ before + _RIDGE * np.eye(DIM), before.T @ wanted)
    student = towers.project(cut, DIM)
    with torch.no_grad():
        student[-2].linear.weight.copy_(torch.from_numpy(matrix.T))
    return student.eval()


def _spread(texts: Sequence[str], count: int) -> list[str]:
    return list(texts[:: max(1, len(texts) // count)][:count])
