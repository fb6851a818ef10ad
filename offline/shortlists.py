"""What the teacher finds for each text: its query vector, and its best documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.progress import say
from offline.ranking import Floats, Rows
from offline.vectors import Search
from snapshot.files import atomic_write
from snapshot.manifest import TextSpec

_SHARD_TEXTS = 8_192
_NAMES = ("rows", "scores", "vectors")
"""The last one written says that a shard is whole."""


@dataclass(frozen=True)
class Shortlists:
    """Of n texts, in their order.

    Attributes:
        vectors: float32[n, dim], the teacher's.
        rows: int64[n, k] of its best documents, best first; -1 where an inverted file found fewer.
        scores: float32[n, k], their inner products, as the search that found them has it.
    """

    vectors: Floats
    rows: Rows
    scores: Floats

    def first(self, count: int) -> Shortlists:
        """Those of the first ``count`` texts."""
        return Shortlists(self.vectors[:count], self.rows[:count], self.scores[:count])

    def confidence(self, documents: int, temperature: float) -> Floats:
        """float32[n]: the share of the teacher's belief, among those on the list, that is in the first ``documents``."""
        logits = np.where(self.rows < 0, -np.inf, self.scores / temperature)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Floats = (shares[:, :documents].sum(axis=1) / shares.sum(axis=1)).astype(np.float32)
        return found


def mine(teacher: SentenceTransformer, spec: TextSpec, texts: Sequence[str], search: Search, k: int, folder: Path) -> Shortlists:
    """Ask the teacher, in shards under ``folder`` that a resumed run does not compute again.

    ``texts`` are rendered; ``folder`` must be that of the same texts, teacher and documents.
    """
    starts = range(0, len(texts), _SHARD_TEXTS)
    for number, start in enumerate(starts):
        if not _path(folder, number, _NAMES[-1]).is_file():
            part = texts[start : start + _SHARD_TEXTS]
            vectors = towers.encode(teacher, spec, part, progress=f"teacher, from text {start} of {len(texts)}")
            scores, rows = search(vectors, k)
            _write(folder, number, {"rows": rows, "scores": scores, "vectors": vectors})
    say(f"  candidates: the teacher's best {k} documents of each of {len(texts)} texts")
    rows, scores, vectors = (
        np.concatenate([np.load(_path(folder, number, name)) for number in range(len(starts))]) for name in _NAMES
    )
    return Shortlists(vectors, rows, scores)


def _write(folder: Path, number: int, arrays: dict[str, Floats | Rows]) -> None:
    for name in _NAMES:
        with atomic_write(_path(folder, number, name)) as handle:
            np.save(handle, arrays[name])


def _path(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number:05d}-{name}.npy"
