"""What became of the documents between two snapshots, told by the hash of the text that the document tower reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offline.progress import track
from offline.ranking import Rows
from snapshot.manifest import TextSpec
from snapshot.text import render

Hashes = NDArray[np.uint8]
"""uint8[rows, 32]."""

CARRIED = "carried.npy"
"""``Changes.carried`` in the output folder of an incremental ``encode``."""
_BLOCK_ROWS = 10_000


def text_hashes(spec: TextSpec, tower_texts: pa.Table) -> Hashes:
    """sha256 of each row's text as ``spec`` renders it, uint8[rows, 32]; ``tower_texts`` as ``offline.data.prepared``."""
    digests = bytearray()
    for start in track(range(0, tower_texts.num_rows, _BLOCK_ROWS), "hashing texts, blocks"):
        for row in tower_texts.slice(start, _BLOCK_ROWS).to_pylist():
            digests += hashlib.sha256(render(spec, row).encode()).digest()
    return np.frombuffer(bytes(digests), np.uint8).reshape(-1, hashlib.sha256().digest_size)


@dataclass(frozen=True)
class Documents:
    """What tells documents apart: ``ids`` and, aligned with them, ``hashes`` uint8[rows, 32]."""

    ids: Sequence[str]
    hashes: Hashes


@dataclass(frozen=True)
class Changes:
    """From an old set of documents to a new one.

    Attributes:
        carried: int64[new rows], the old row whose vector a new row takes over, or -1 where it has to be encoded.
        new: ids that were not there.
        changed: ids that have another text.
        unchanged: ids that have the same text.
        dropped: ids that are there no longer.
    """

    carried: Rows
    new: int
    changed: int
    unchanged: int
    dropped: int

    @property
    def encoded(self) -> int:
        """How many rows have to be encoded: a new id with a text that is known has not."""
        return int(np.count_nonzero(self.carried < 0))

    def describe(self) -> str:
        return f"{self.new} new, {self.changed} changed, {self.unchanged} carried over, {self.dropped} dropped"


def compare(old: Documents, new: Documents) -> Changes:
    """Match by id first, so that a document keeps its own vector; then by text, so that a renamed one is not encoded."""
    old_digests, new_digests = _digests(old.hashes), _digests(new.hashes)
    by_id = {key: row for row, key in enumerate(old.ids)}
    by_text = {digest: row for row, digest in enumerate(old_digests)}
    carried = np.empty(len(new.ids), np.int64)
    known = unchanged = 0
    for row, (key, digest) in enumerate(zip(new.ids, new_digests, strict=True)):
        before = by_id.get(key, -1)
        same = before >= 0 and old_digests[before] == digest
        carried[row] = before if same else by_text.get(digest, -1)
        known += before >= 0
        unchanged += same
    return Changes(carried, len(new.ids) - known, known - unchanged, unchanged, len(by_id) - known)


def compare_ids(old: Sequence[str], new: Sequence[str]) -> Changes:
    """Where the old texts' hashes are not known: every document has to be encoded, and those that stayed count as changed."""
    known = len(set(old) & set(new))
    return Changes(np.full(len(new), -1, np.int64), len(new) - known, known, 0, len(old) - known)


def _digests(hashes: Hashes) -> list[bytes]:
    width = hashes.shape[1]
    flat = hashes.tobytes()
    return [flat[start : start + width] for start in range(0, len(flat), width)]
