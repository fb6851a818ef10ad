"""The snapshots that are measured: real ones, which the service opens, of every size and kind; made once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from offline.config import IndexConfig
from offline.efforts import default_effort, measure, open_index, search_as_served
from offline.index import build, sizes_of
from offline.ranking import Floats, Rows, exact_top_k, recall
from snapshot.documents import columns_of, document_field, write_documents
from snapshot.files import atomic_write, write_text
from snapshot.layout import Layout
from snapshot.manifest import Documents, Effort, Golden, Index
from snapshot.registry import Registry
from snapshot.seal import Draft, seal
from tests.bench.cache import Cache
from tests.bench.corpus import PROBES, Corpus, load_corpus
from tests.bench.scale import SLOW_MS, K
from tests.bench.students import DIM, DOCUMENT_TEXT, SPACE, Precision, Student, make_student, tower_inputs
from tests.bench.vectors import DIRECTIONS, clustered, real_vectors

Kind = Literal["hnsw", "ivfpq"]
BUCKETS = 10_000
"""Values of the filterable column ``bucket``, all equally frequent: ``{"bucket": {"$lt": n}}`` keeps a share of n / BUCKETS."""
_INDEX = "index.faiss"
_RECALL_MARGIN = 0.05
_CONFIG = IndexConfig(m=16, ef_construction=100)


@dataclass(frozen=True)
class Spec:
    """Which snapshot.

    Attributes:
        rows: documents.
        layers: of the query tower, 2 or 6.
        slow: the default effort is one that takes more than ``SLOW_MS``.
    """

    rows: int
    kind: Kind
    layers: int = 2
    slow: bool = False
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.rows}-{self.layers}{'-slow' if self.slow else ''}{'' if self.is_fp32 else '-int8'}"

    @property
    def is_fp32(self) -> bool:
        return self.precision == "fp32"

    def inputs(self) -> dict[str, Any]:
        """What tells it from others; folders that were made before there was a precision are of fp32."""
        return {name: value for name, value in vars(self).items() if name != "precision" or not self.is_fp32}


class Library:
    """Snapshots below a cache folder, each alone in a registry of its own."""

    def __init__(self, root: Path, data: Path) -> None:
        self._cache = Cache(root)
        self._data = data

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus(self._cache, self._data)

    def student(self, layers: int, precision: Precision = "fp32") -> Student:
        return make_student(self._cache, self.corpus, layers, precision)

    def open(self, spec: Spec) -> Registry:
        """The registry whose current snapshot is that of ``spec``."""
        efforts = self._efforts(spec)
        described = {"spec": spec.inputs(), "index": efforts.model_dump(mode="json")}
        inputs = self._inputs(spec.rows) | self._tower(spec.layers, spec.precision) | described
        return Registry(self._cache.folder(f"snapshot-{spec.name}", inputs, lambda folder: self._seal(folder, spec, efforts)))

    def exact(self, rows: int, layers: int) -> tuple[Floats, Rows]:
        """Scores float32[n, K] and rows int64[n, K] of exact search for ``corpus.asked`` by the student's vectors."""

        def make(folder: Path) -> None:
            scores, found = exact_top_k(self.student(layers).encode(self.corpus.asked), self._vectors(rows), K)
            np.savez(folder / "exact.npz", scores=scores, rows=found)

        folder = self._cache.folder(
            f"exact-{rows}-{layers}", self._inputs(rows) | self._tower(layers) | {"asked_from": PROBES}, make
        )
        with np.load(folder / "exact.npz") as found:
            return found["scores"], found["rows"]

    def _inputs(self, rows: int) -> dict[str, Any]:
        return {"corpus": self.corpus.key, "rows": rows, "directions": DIRECTIONS, "space": SPACE.fingerprint}

    def _tower(self, layers: int, precision: Precision = "fp32") -> dict[str, Any]:
        return {"tower": tower_inputs(self.corpus, layers, precision)}

    def _vectors(self, rows: int) -> Floats:
        return clustered(real_vectors(self._cache, self.corpus), rows)[0]

    def _index(self, rows: int, kind: Kind) -> Path:
        sizes = sizes_of(kind, _CONFIG, rows, DIM)

        def make(folder: Path) -> None:
            index = build(kind, sizes, self._vectors(rows))
            with atomic_write(folder / _INDEX) as handle:
                faiss.write_index(index, faiss.PyCallbackIOWriter(handle.write))

        return self._cache.folder(f"index-{kind}-{rows}", self._inputs(rows) | {"kind": kind, **sizes}, make) / _INDEX

    def _documents(self, rows: int) -> Path:
        def make(folder: Path) -> None:
            centres = clustered(real_vectors(self._cache, self.corpus), rows)[1]
            write_documents(_documents(self.corpus, centres), folder)

        return self._cache.folder(f"documents-{rows}", self._inputs(rows) | {"buckets": BUCKETS}, make)

    def _efforts(self, spec: Spec) -> Index:
        """The description of the index: measured with the student's probes, as the stage ``index`` does it."""
        sizes = sizes_of(spec.kind, _CONFIG, spec.rows, DIM)
        rungs = () if spec.slow else _rungs(spec.kind, sizes)

        def make(folder: Path) -> None:
            probes = self.student(spec.layers, spec.precision).encode(self.corpus.probes)
            exact, _ = exact_top_k(probes, self._vectors(spec.rows), K)
            index = open_index(self._index(spec.rows, spec.kind))
            efforts = measure(index, spec.kind, rungs, probes, exact) if rungs else _until_slow(index, spec.kind, probes, exact)
            effort, why = default_effort(efforts, _CONFIG.recall_target) if rungs else (efforts[-1].effort, "slow on purpose")
            described = {"kind": spec.kind, **sizes, "reason": f"bench; {why}", "default_effort": effort, "efforts": efforts}
            found = TypeAdapter[Index](Index).validate_python(described)
            write_text(folder / "index.json", found.model_dump_json(indent=2))

        tower = self._tower(spec.layers, spec.precision)
        inputs = self._inputs(spec.rows) | {"spec": spec.inputs(), "sizes": sizes, "rungs": rungs, "probes": PROBES} | tower
        folder = self._cache.folder(f"efforts-{spec.name}", inputs, make)
        return TypeAdapter[Index](Index).validate_json((folder / "index.json").read_bytes())

    def _seal(self, folder: Path, spec: Spec, described: Index) -> None:
        student, staging = self.student(spec.layers, spec.precision), Layout(folder / ".staging")
        documents = self._documents(spec.rows)
        _place(student.model, staging.model)
        _place(student.tokenizer, staging.tokenizer)
        _place(self._index(spec.rows, spec.kind), staging.index)
        for path in documents.glob("*.arrow"):
            _place(path, staging.documents / path.name)
        sealed = seal(
            staging.root,
            Draft(
                name=f"bench-{spec.name}",
                space=SPACE,
                query_tower=student.described(),
                document_text=DOCUMENT_TEXT,
                index=described,
                documents=Documents(count=spec.rows, columns=columns_of(_schema())),
                golden=self._write_golden(staging, student, described, spec),
            ),
        )
        Registry(folder).activate(sealed.name, "bench")

    def _write_golden(self, layout: Layout, student: Student, described: Index, spec: Spec) -> Golden:
        vectors: Floats = np.load(student.golden_vectors)
        _, rows = exact_top_k(vectors, self._vectors(spec.rows), K)
        layout.golden.mkdir(parents=True)
        write_text(layout.golden_queries, json.dumps(self.corpus.probes[: len(vectors)]))
        np.save(layout.golden_vectors, vectors)
        np.save(layout.golden_rows, rows)
        found = recall(search_as_served(open_index(layout.index), described, vectors, K), rows)
        return Golden(queries=len(vectors), k=K, max_cosine_distance=1e-4, min_recall=max(0.0, found - _RECALL_MARGIN))


def _rungs(kind: Kind, sizes: Mapping[str, int]) -> tuple[int, ...]:
    most = 512 if kind == "hnsw" else min(512, sizes["nlist"])
    return tuple(2**power for power in range(4 if kind == "hnsw" else 0, most.bit_length()))


def _until_slow(index: faiss.Index, kind: Kind, probes: Floats, exact: Floats) -> tuple[Effort, ...]:
    """Efforts doubled until one takes ``SLOW_MS``."""
    efforts: list[Effort] = []
    while not efforts or (efforts[-1].p50_ms < SLOW_MS and efforts[-1].effort <= index.ntotal):
        efforts += measure(index, kind, (2 * efforts[-1].effort if efforts else 16,), probes, exact)
    return tuple(efforts)


def _schema() -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string()),
            document_field("title", "string", filterable=False),
            document_field("text", "string", filterable=False),
            document_field("bucket", "integer", filterable=True),
            document_field("letter", "string", filterable=True),
        ]
    )


def _documents(corpus: Corpus, centres: Rows) -> pa.Table:
    """Each synthetic document has the texts of the real one that it was made of."""
    titles = pa.array(corpus.titles).take(pa.array(centres))
    texts = pa.array([corpus.stored(row) for row in range(len(corpus.texts))]).take(pa.array(centres))
    buckets = np.random.default_rng(0).permutation(len(centres)) % BUCKETS
    letters = pa.array([(title or "-")[0].lower() for title in corpus.titles]).take(pa.array(centres))
    columns = [[f"doc-{row}" for row in range(len(centres))], titles, texts, buckets, letters]
    return pa.table(columns, schema=_schema())


def _place(source: Path, target: Path) -> None:
    """Link, for sealed files never change; copy onto another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
