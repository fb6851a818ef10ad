"""The in-process floor: tokenizer, ONNX graph and FAISS called one after the other, batch 1, one thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.encoder import Encoder
from service.engines import open_engine
from service.engines.base import Engine
from snapshot.layout import Layout
from snapshot.manifest import Manifest


@dataclass(frozen=True)
class Floor:
    """Milliseconds per query, by stage and whole, one entry a query; CPU seconds of the process meanwhile."""

    tokenize_ms: list[float]
    encode_ms: list[float]
    search_ms: list[float]
    total_ms: list[float]
    cpu_seconds: float


class Parts:
    """The encoder and engine of one snapshot, opened as the service opens them."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self.encoder = Encoder.open(layout, manifest.query_tower, manifest.space, threads=1)
        self.engine: Engine = open_engine(manifest, layout)
        self.effort = manifest.index.default_effort

    def measure(self, queries: Sequence[str], k: int, seconds: float) -> Floor:
        """Search ``queries`` in a loop for ``seconds``."""
        rows: list[tuple[float, float, float, float]] = []
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            rows.append(self._once(queries[len(rows) % len(queries)], k))
        tokenize, encode, search, total = (list(column) for column in zip(*rows, strict=True))
        return Floor(tokenize, encode, search, total, time.process_time() - cpu)

    def _once(self, query: str, k: int) -> tuple[float, float, float, float]:
        start = time.perf_counter()
        tokens = self.encoder.tokenize([query])
        tokenized = time.perf_counter()
        vectors = self.encoder.embed(tokens)
        encoded = time.perf_counter()
        self.engine.search(vectors, k, self.effort)
        end = time.perf_counter()
        return (tokenized - start) * 1e3, (encoded - tokenized) * 1e3, (end - encoded) * 1e3, (end - start) * 1e3
