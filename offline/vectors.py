"""Vectors in shards on the disk, read where they lie: more of them can be searched and picked from than fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
import torch

from offline.errors import StageError
from offline.progress import track
from offline.ranking import Floats, Rows, exact_top_k

_BLOCK_ROWS = 65_536
_QUERY_ROWS = 1_024
_TRAINING_ROWS_PER_LIST = 64
_LEAST_PROBES, _PROBED_SHARE = 16, 32


class Vectors:
    """float32[n, dim] in the ``*.npy`` files of a folder, in the order of their names; memory-mapped.

    Raises:
        StageError: there are none.
    """

    def __init__(self, folder: Path) -> None:
        self._shards: list[Floats] = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        if not self._shards:
            raise StageError(f"{folder}: no vectors; run the stage encode first")
        self._starts = [0, *accumulate(len(shard) for shard in self._shards)]
        self.dim = int(self._shards[0].shape[1])

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, rows: Rows) -> Floats:
        """A copy of the rows int64[m] asked for, float32[m, dim], in that order."""
        found = np.empty((len(rows), self.dim), np.float32)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            places = numbers == number
            found[places] = self._shards[number][rows[places] - self._starts[number]]
        return found

    def blocks(self, rows: int = _BLOCK_ROWS) -> Iterator[tuple[int, Floats]]:
        """The first row of each block, and its vectors; copies, at most ``rows`` at a time."""
        for start in range(0, len(self), rows):
            yield start, self.take(np.arange(start, min(start + rows, len(self))))


class Search(Protocol):
    """Finds the best rows of document vectors by inner product: scores float32[q, k], descending, and rows int64[q, k]."""

    def __call__(self, queries: Floats, k: int) -> tuple[Floats, Rows]: ...


def open_search(documents: Vectors, exact_rows: int, seed: int) -> Search:
    """Exact up to ``exact_rows`` documents, and on a GPU; above by an inverted file with a byte a number, built in memory."""
    if len(documents) <= exact_rows or torch.cuda.is_available():
        return ExactSearch(documents, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return InvertedSearch(documents, seed)


class ExactSearch:
    """Compares with every row, block by block; never holds more scores than those of a block."""

    def __init__(self, documents: Vectors, device: torch.device) -> None:
        self._documents = documents
        self._device = device

    def __call__(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start, block in self._documents.blocks():
            found = exact_top_k(queries, block, k) if self._device.type == "cpu" else torch_top_k(queries, block, k, self._device)
            scores, rows = np.hstack([scores, found[0]]), np.hstack([rows, found[1] + start])
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return scores, rows


def torch_top_k(queries: Floats, documents: Floats, k: int, device: torch.device) -> tuple[Floats, Rows]:
    """As ``exact_top_k``, on ``device``."""
    block = torch.from_numpy(documents).to(device)
    parts = [
        (torch.from_numpy(queries[start : start + _QUERY_ROWS]).to(device) @ block.T).topk(min(k, len(documents)), dim=1)
        for start in range(0, len(queries), _QUERY_ROWS)
    ]
    scores, rows = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return scores, rows


class InvertedSearch:
    """Looks at the lists nearest to a query alone (IVF), whose vectors are kept with a byte for each number."""

    def __init__(self, documents: Vectors, seed: int) -> None:
        lists = max(1, round(4 * len(documents) ** 0.5))
        self._index = faiss.index_factory(documents.dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(seed).permutation(len(documents))[: lists * _TRAINING_ROWS_PER_LIST]
        self._index.train(documents.take(np.sort(sample)))
        blocks = -(-len(documents) // _BLOCK_ROWS)
        for _, block in track(documents.blocks(), "documents into an inverted file, blocks", total=blocks):
            self._index.add(block)
        self._index.nprobe = min(lists, max(_LEAST_PROBES, lists // _PROBED_SHARE))

    def __call__(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, self._index.ntotal))
        return scores, rows
