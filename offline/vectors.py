"""Searching vectors in shards on the disk: more of them than fit into memory."""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import torch

from offline.encoded import BLOCK_ROWS
from offline.encoded import Vectors as Vectors
from offline.progress import track
from offline.ranking import Floats, Rows, exact_top_k, merge_top_k

_QUERY_ROWS = 1_024
_TRAINING_ROWS_PER_LIST = 64
_LEAST_PROBES, _PROBED_SHARE = 16, 32


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
        if self._device.type == "cpu":
            return exact_top_k(queries, self._documents, k)
        found = ((torch_top_k(queries, block, k, self._device), start) for start, block in self._documents.blocks())
        return merge_top_k(((scores, rows + start) for (scores, rows), start in found), k)


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
        blocks = -(-len(documents) // BLOCK_ROWS)
        for _, block in track(documents.blocks(), "documents into an inverted file, blocks", total=blocks):
            self._index.add(block)
        self._index.nprobe = min(lists, max(_LEAST_PROBES, lists // _PROBED_SHARE))

    def __call__(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, self._index.ntotal))
        return scores, rows
