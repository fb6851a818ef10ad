"""Opening FAISS files: memory-mapped, and bounded while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from snapshot.errors import IntegrityError

AGAIN = "publish the snapshot again, or activate another one"


def read_index(path: Path) -> Any:
    """Memory-map a verified file.

    Raises:
        IntegrityError: it is no FAISS index.
    """
    try:
        with _limits(path.stat().st_size):
            # MMAP_IFC maps every kind (plain MMAP silently copies flat and HNSW). The precomputed table serves L2 only.
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        raise IntegrityError(f"{path}: not a readable FAISS index ({str(error)[-200:]}); {AGAIN}") from error


@contextmanager
def _limits(size: int) -> Iterator[None]:
    """Believe what a file claims about the size of its parts up to the size of the whole.

    The limits belong to the process, not to the call: snapshots are opened one after the other, and others may read
    larger files afterwards.
    """
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])
