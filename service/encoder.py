"""From queries to vectors: the tokenizer and the ONNX graph of one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snapshot.layout import Layout
from snapshot.manifest import QueryTower, Space


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the graph reads for n queries, padded on the right to the longest, t.

    Attributes:
        ids: int64[n, t].
        mask: int64[n, t], 1 for tokens, 0 for padding.
        counts: tokens used of each query, special tokens included.
        truncated: whether a query was longer than the manifest's ``max_tokens``.
    """

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    counts: list[int]
    truncated: list[bool]


class Encoder:
    """The query tower of one snapshot. Both methods are safe from several threads at once."""

    dim: int

    @classmethod
    def open(cls, layout: Layout, tower: QueryTower, space: Space, threads: int) -> Encoder:
        """Open tokenizer and graph of a verified snapshot; raises SpaceMismatchError, ModelError."""
        raise NotImplementedError

    def tokenize(self, queries: Sequence[str]) -> Tokens:
        """Render raw queries by the manifest's template and tokenize them."""
        raise NotImplementedError

    def embed(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """float32[n, dim], L2-normalised."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the graph's memory back; the encoder is not used again."""
        raise NotImplementedError
