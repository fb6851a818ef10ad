"""A FAISS index in several files, trained once and built one file after the other: more vectors than fit into memory.

Every file is a faiss.IndexRefine over the same rotation, centroids and codebooks, so that searching all of them gives what
one file would give. A killed run repeats at most the file that it was writing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from offline.encoded import Vectors
from offline.errors import RecipeError
from offline.progress import say, track
from offline.ranking import Floats, Rows, merge_top_k
from offline.sharded_config import ShardedConfig
from snapshot.files import atomic_write
from snapshot.layout import part_name
from snapshot.manifest import ShardedIndex

TRAINED = "trained.faiss"
_CENTROIDS = 256
"""Of each PQ codebook: codes have 8 bits."""
_LEAST_SAMPLE = 65_536
_OPQ_SAMPLE, _OPQ_ROUNDS, _OPQ_FIRST, _OPQ_LATER = 16_384, 10, 15, 3
"""Vectors and rounds that a rotation is learned with, and k-means steps in the first round and in each later one."""
_POINTS_PER_CODE = 128
"""Of a codebook: FAISS takes at most twice as many, for twice the time."""
_SEED = 17
_REFINE: Mapping[str, Callable[[int], faiss.Index]] = {
    "fp32": faiss.IndexFlatIP,
    "fp16": lambda dim: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
    "int8": lambda dim: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT),
}


def sizes_of(config: ShardedConfig, refine_factor: int, rows: int, dim: int) -> dict[str, Any]:
    """What the manifest says of the index beside its efforts.

    Raises:
        RecipeError: too few documents to train on, or codes that do not fit the width.
    """
    if config.codes == "opq" and rows < _CENTROIDS:
        raise RecipeError(
            f"sharded.codes: opq needs {_CENTROIDS} documents or more to train on, there are {rows}; use flat or hnsw"
        )
    lists = max(1, min(config.lists or round(4 * math.sqrt(rows)), rows // config.points_per_list))
    return {
        "parts": tuple(min(config.part_rows, rows - start) for start in range(0, rows, config.part_rows)),
        "codes": config.codes,
        "code_bytes": _lists_index(config, lists, dim).code_size,
        "nlist": lists,
        "refine": config.refine,
        "refine_factor": refine_factor,
    }


def _lists_index(config: ShardedConfig, lists: int, dim: int) -> faiss.IndexIVF:
    coarse = faiss.IndexFlatIP(dim)
    if config.codes == "rabitq":
        index = faiss.IndexIVFRaBitQ(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT, True, config.rabitq_bits)
    else:
        index = faiss.IndexIVFPQ(coarse, dim, lists, _pq_bytes(config, dim), 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed, index.pq.cp.min_points_per_centroid = _SEED, 1
        index.pq.cp.max_points_per_centroid = _POINTS_PER_CODE
    index.cp.seed, index.cp.min_points_per_centroid = _SEED, 1  # FAISS warns otherwise; what few cost stands in the efforts
    return index


def _pq_bytes(config: ShardedConfig, dim: int) -> int:
    if config.pq_bytes is None:
        return max(size for size in range(1, max(1, dim // 4) + 1) if dim % size == 0)
    if dim % config.pq_bytes:
        raise RecipeError(f"sharded.pq_bytes: {config.pq_bytes} does not divide the vectors' width, {dim}")
    return config.pq_bytes


def build(config: ShardedConfig, sizes: Mapping[str, Any], vectors: Vectors, folder: Path) -> None:
    """Write the files that ``folder`` does not have yet. In memory at a time: the sample to train on, or one file's rows."""
    trained = folder / TRAINED
    if not trained.exists():
        _train(config, sizes, vectors, trained)
    begins = list(accumulate(sizes["parts"], initial=0))
    for number in track(range(len(sizes["parts"])), "index, files"):
        path = folder / part_name(number)
        if not path.exists():
            write_index(_filled(trained, vectors, begins[number], begins[number + 1]), path)


def write_index(index: faiss.Index, path: Path) -> None:
    """Write the file whole or not at all."""
    with atomic_write(path) as handle:
        faiss.write_index(index, faiss.PyCallbackIOWriter(handle.write))


def _train(config: ShardedConfig, sizes: Mapping[str, Any], vectors: Vectors, path: Path) -> None:
    """Write an index without rows."""
    wanted = min(len(vectors), max(_LEAST_SAMPLE, config.points_per_list * sizes["nlist"]))
    say(f"  training on a sample of {wanted} of {len(vectors)} vectors")
    rows = np.sort(np.random.default_rng(_SEED).choice(len(vectors), wanted, replace=False))
    lists, whole = _lists_index(config, sizes["nlist"], vectors.dim), _REFINE[config.refine](vectors.dim)
    rotation, codebooks = _rotation(config, vectors.dim)
    rotated = faiss.IndexPreTransform(rotation, lists)
    index = faiss.IndexRefine(rotated, whole)
    index.train(vectors.read(rows))
    del codebooks  # which the rotation was learned with, and does not own
    write_index(index, path)


def _rotation(config: ShardedConfig, dim: int) -> tuple[faiss.LinearTransform, faiss.ProductQuantizer | None]:
    """A rotation, and what must live until it is learned."""
    if config.codes == "rabitq":
        rotation = faiss.RandomRotationMatrix(dim, dim)
        rotation.init(_SEED)
        return rotation, None
    rotation, codebooks = faiss.OPQMatrix(dim, _pq_bytes(config, dim)), faiss.ProductQuantizer(dim, _pq_bytes(config, dim), 8)
    codebooks.cp.seed, codebooks.cp.min_points_per_centroid = _SEED, 1
    rotation.pq, rotation.max_train_points = codebooks, _OPQ_SAMPLE
    rotation.niter, rotation.niter_pq_0, rotation.niter_pq = _OPQ_ROUNDS, _OPQ_FIRST, _OPQ_LATER
    return rotation, codebooks


def _filled(trained: Path, vectors: Vectors, begin: int, end: int) -> faiss.Index:
    index = faiss.read_index(str(trained))
    for _, block in vectors.blocks(begin, end):
        index.add(block)
    return index


@dataclass(frozen=True)
class _Part:
    """One file, memory-mapped; rows are those of the whole."""

    index: Any
    start: int

    def candidates(self, rotated: Floats, near: tuple[Floats, Rows], count: int) -> tuple[Floats, Rows]:
        lists = faiss.downcast_index(faiss.downcast_index(self.index.base_index).index)
        scores, rows = np.empty((len(rotated), count), np.float32), np.empty((len(rotated), count), np.int64)
        pointers = [faiss.swig_ptr(array) for array in (near[1], near[0], scores, rows)]
        probes = faiss.SearchParametersIVF(nprobe=near[1].shape[1])
        lists.search_preassigned_c(len(rotated), faiss.swig_ptr(rotated), count, *pointers, False, probes)
        return np.where(rows < 0, -np.inf, scores), np.where(rows < 0, rows, rows + self.start)

    def vectors(self, rows: Rows) -> Floats:
        return np.asarray(faiss.downcast_index(self.index.refine_index).reconstruct_batch(rows - self.start))


class Shards:
    """All files, searched one after the other; in place of a faiss.Index where one is only searched and asked for its size.

    Attributes:
        k_factor: candidates that are compared for each hit.
    """

    def __init__(self, folder: Path, described: ShardedIndex) -> None:
        starts = list(accumulate(described.parts, initial=0))
        paths = [folder / part_name(number) for number in range(len(described.parts))]
        self._parts = [
            _Part(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), start) for path, start in zip(paths, starts, strict=False)
        ]
        self._starts = np.array(starts[:-1], np.int64)
        self.k_factor = described.refine_factor
        self.ntotal, self.d = sum(part.index.ntotal for part in self._parts), int(self._parts[0].index.d)

    def search(self, queries: Floats, k: int, params: int) -> tuple[Floats, Rows]:
        """Scores float32[n, k] and rows int64[n, k], -1 where fewer were found; ``params`` is the number of lists probed."""
        base = faiss.downcast_index(self._parts[0].index.base_index)
        lists = faiss.downcast_index(base.index)
        rotated = faiss.downcast_VectorTransform(base.chain.at(0)).apply(np.ascontiguousarray(queries, np.float32))
        near, count = lists.quantizer.search(rotated, min(params, lists.nlist)), min(k * self.k_factor, self.ntotal)
        _, likely = merge_top_k((part.candidates(rotated, near, count) for part in self._parts), count)
        refined = [self._refined(query, rows[rows >= 0], k) for query, rows in zip(queries, likely, strict=True)]
        return np.stack([scores for scores, _ in refined]), np.stack([rows for _, rows in refined])

    def _refined(self, query: Floats, rows: Rows, k: int) -> tuple[Floats, Rows]:
        scores, best = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
        compared = self.vectors(rows) @ query
        order = np.argsort(-compared, kind="stable")[:k]
        scores[: len(order)], best[: len(order)] = compared[order], rows[order]
        return scores, best

    def vectors(self, rows: Rows) -> Floats:
        """Whole vectors float32[m, dim] as the files keep them."""
        found, where = np.empty((len(rows), self.d), np.float32), np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(where).tolist():
            found[where == number] = self._parts[number].vectors(rows[where == number])
        return found
