"""What ``prepare`` writes and every later stage reads: typed Arrow tables in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from offline.errors import StageError
from snapshot.files import atomic_write

PAIRS = pa.schema([("query", pa.string()), ("title", pa.string()), ("text", pa.string()), ("row", pa.int32())])
"""Training pairs. title and text are the positive's fields to render (they may leave out what stands in the query);
row is the document's row. A query with several positives has several rows."""

QUERIES = pa.schema([("id", pa.string()), ("text", pa.string()), ("split", pa.string())])
"""Judged queries; split is train, dev or test."""

QRELS = pa.schema([("split", pa.string()), ("query_id", pa.string()), ("row", pa.int32()), ("score", pa.int32())])
"""Judgements; row is the document's row, score 0 means judged and irrelevant."""

TEXTS = pa.schema([("text", pa.string()), ("source", pa.string())])
"""Queries for distillation, without labels, de-duplicated; source is one of ``offline.config.SourceName``.
Held-out queries are not among them."""

TOWER_TEXTS = pa.schema([("title", pa.string()), ("text", pa.string())])
"""What the document tower reads of each row, uncut."""


@dataclass(frozen=True)
class Prepared:
    """The output folder of ``prepare``. Tables are memory-mapped and read when first asked for."""

    folder: Path

    @cached_property
    def documents(self) -> pa.Table:
        """``id`` and the stored columns, as the snapshot will hold them; see snapshot.documents for the schema."""
        return self._read("documents.arrow")

    @cached_property
    def tower_texts(self) -> pa.Table:
        """``TOWER_TEXTS``, aligned with ``documents``."""
        return self._read("tower_texts.arrow")

    @cached_property
    def pairs(self) -> pa.Table:
        return self._read("pairs.arrow")

    @cached_property
    def queries(self) -> pa.Table:
        return self._read("queries.arrow")

    @cached_property
    def qrels(self) -> pa.Table:
        return self._read("qrels.arrow")

    @cached_property
    def texts(self) -> pa.Table:
        return self._read("texts.arrow")

    def _read(self, name: str) -> pa.Table:
        path = self.folder / name
        try:
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise StageError(f"{path}: cannot be read ({error}); run the stage prepare first") from error


def write_table(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file to a temporary name and rename it."""
    with atomic_write(path) as handle, pa.ipc.new_file(handle, table.schema) as writer:
        writer.write_table(table)
