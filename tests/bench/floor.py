"""The in-process floor: tokenizers, onnxruntime and FAISS called one after the other, batch 1, one thread, nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from snapshot.layout import Layout
from snapshot.manifest import Manifest

STAGES = ("tokenize", "encode", "search")


@dataclass(frozen=True)
class Floor:
    """Milliseconds per query, by stage, float64[n, 3] in the order of ``STAGES``; CPU seconds of the process meanwhile."""

    stage_ms: np.ndarray
    cpu_seconds: float

    @property
    def total_ms(self) -> np.ndarray:
        """float64[n]."""
        total: np.ndarray = self.stage_ms.sum(axis=1)
        return total

    @property
    def encoding_ms(self) -> np.ndarray:
        """Tokenizing and encoding, float64[n]."""
        encoding: np.ndarray = self.stage_ms[:, :2].sum(axis=1)
        return encoding


class FloorParts:
    """Tokenizer, graph and index of one snapshot."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self._tokenizer = Tokenizer.from_file(str(layout.tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(manifest.query_tower.text.max_tokens)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(layout.model), options, providers=["CPUExecutionProvider"])
        self._index = faiss.read_index(str(layout.index), faiss.IO_FLAG_MMAP_IFC)
        if manifest.index.kind == "hnsw":
            self._index.hnsw.efSearch = manifest.index.default_effort
        elif manifest.index.kind == "ivfpq":
            faiss.extract_index_ivf(self._index.base_index).nprobe = manifest.index.default_effort

    def measure(self, queries: Sequence[str], k: int, seconds: float) -> Floor:
        """Search ``queries`` in a loop for ``seconds``."""
        rows: list[tuple[float, float, float]] = []
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            rows.append(self._once(queries[len(rows) % len(queries)], k))
        floor = Floor(np.array(rows) * 1e3, time.process_time() - cpu)
        faiss.omp_set_num_threads(threads)
        return floor

    def _once(self, query: str, k: int) -> tuple[float, float, float]:
        start = time.perf_counter()
        ids = self._tokenizer.encode(query).ids
        tokenized = time.perf_counter()
        inputs = np.array([ids], np.int64)
        (vectors,) = self._session.run(["sentence_embedding"], {"input_ids": inputs, "attention_mask": np.ones_like(inputs)})
        encoded = time.perf_counter()
        self._index.search(vectors, k)
        return tokenized - start, encoded - tokenized, time.perf_counter() - encoded
