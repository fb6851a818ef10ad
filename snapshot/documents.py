"""The documents: Arrow rows with an id, stored fields and filterable columns; row i is row i of the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from snapshot.arrow_file import check_plain
from snapshot.cells import Cell, cells_of
from snapshot.errors import CountMismatchError, ManifestError
from snapshot.files import atomic_write
from snapshot.filter_cache import CacheStats, FilterCache
from snapshot.filters import Condition, Filter, at_once, select
from snapshot.manifest import Column, ColumnType
from snapshot.selection import Selection
from snapshot.values import array_of

FieldValue = Cell
Rows = Sequence[int] | npt.NDArray[np.int64]

_ARROW: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_FILTERABLE = b"filterable"
_HASHED_ROWS = 4096
_FEW_ROWS = 64
"""Up to this many rows are read cell by cell; beyond, Arrow's fixed cost of 15 to 20 microseconds a column has paid off."""


def document_field(name: str, kind: ColumnType, *, filterable: bool) -> pa.Field:
    """The Arrow field of one column; whether it can be filtered on travels in the field's metadata."""
    return pa.field(name, _ARROW[kind], metadata={_FILTERABLE: b"true" if filterable else b"false"})


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns beside ``id`` that a documents schema declares.

    Raises:
        ManifestError: the first column is not a string named ``id``, a column has another type, or two have one name.
    """
    if len(set(schema.names)) < len(schema.names):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise ManifestError(f"documents: two columns are called {twice[:120]!r}; give one of them another name")
    if not schema.names or schema.names[0] != "id" or schema.field(0).type != pa.string():
        raise ManifestError("documents: the first column must be the string column 'id'")
    return tuple(_column(schema.field(i)) for i in range(1, len(schema.names)))


def _column(field: pa.Field) -> Column:
    kinds = {arrow: kind for kind, arrow in _ARROW.items()}
    if field.type not in kinds:
        raise ManifestError(f"documents: column {field.name!r} has type {field.type}; there are {', '.join(_ARROW)}")
    filterable = (field.metadata or {}).get(_FILTERABLE) == b"true"
    return Column(name=field.name, type=kinds[field.type], filterable=filterable)


def write_documents(table: pa.Table, folder: Path) -> tuple[Column, ...]:
    """Write ``table`` as Arrow IPC under ``folder`` and return its columns.

    One record batch, so that a row is found by its offset.
    """
    columns = columns_of(table.schema)
    with atomic_write(folder / "part-00000.arrow") as handle, pa.ipc.new_file(handle, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return columns


def check_ids(ids: pa.ChunkedArray, where: object) -> None:
    """Refuse documents without an id, and two of the same. Takes about 0.1 seconds and 16 MB for a million.

    Hashes of ids are compared, a few thousand at a time, and then the ids of those that are equal.

    Raises:
        CountMismatchError: names the row or the id.
    """
    if ids.null_count:
        row = pc.index(pc.is_null(ids), value=True).as_py()
        raise CountMismatchError(f"{where}: document {row} has no id; publish a snapshot in which each has one")
    hashes = np.empty(len(ids), np.int64)
    for start in range(0, len(ids), _HASHED_ROWS):
        some = ids.slice(start, _HASHED_ROWS).to_pylist()
        hashes[start : start + len(some)] = np.fromiter(map(hash, some), np.int64, len(some))
    ordered = np.sort(hashes)
    for value in np.unique(ordered[1:][ordered[1:] == ordered[:-1]]):
        _check_alike(ids, np.flatnonzero(hashes == value), where)


def _check_alike(ids: pa.ChunkedArray, rows: npt.NDArray[np.int64], where: object) -> None:
    """Whether the ids of these rows, whose hashes are equal, are not."""
    first: dict[str, int] = {}
    for row in rows.tolist():
        found = ids[row].as_py()
        if first.setdefault(found, row) != row:
            both = f"documents {first[found]} and {row} have the same id {found[:120]!r}"
            raise CountMismatchError(f"{where}: {both}; publish a snapshot with one of them")


class Documents:
    """Memory-mapped documents, read-only and safe to use from several threads."""

    def __init__(self, table: pa.Table, filter_cache_bytes: int = 0) -> None:
        self._table = table
        self.columns = columns_of(table.schema)
        self.names = tuple(column.name for column in self.columns)
        self.count = int(table.num_rows)
        self._cache = FilterCache(filter_cache_bytes)
        self._cells = {name: cells_of(table.column(name)) for name in table.column_names}

    def ids(self, rows: Rows) -> list[str]:
        """The ids of ``rows``, in that order; IndexError where there is no such row."""
        (ids,) = self._read(rows, ("id",))
        return cast("list[str]", ids)

    def fields(self, rows: Rows, names: Sequence[str] | None = None) -> list[dict[str, FieldValue]]:
        """The stored fields of ``rows``, in that order: all, or those in ``names`` (which must be columns).

        Raises:
            IndexError: there is no such row.
        """
        wanted = self.names if names is None else tuple(dict.fromkeys(names))  # a name given twice is read once
        if not wanted:
            return [{} for _ in rows]
        return list(map(dict, map(zip, repeat(wanted), zip(*self._read(rows, wanted), strict=True))))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that no row has, in their order."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        column = self._table.column("id")
        matches = column.filter(pc.is_in(column, value_set=array_of(wanted, pa.string())))
        found = set(matches.to_pylist())
        return [each for each in wanted if each not in found]

    def _read(self, rows: Rows, names: Sequence[str]) -> list[list[FieldValue]]:
        if len(rows) > _FEW_ROWS:
            indices = array_of(rows, pa.int64())
            return [self._table.column(name).take(indices).to_pylist() for name in names]
        listed = rows.tolist() if isinstance(rows, np.ndarray) else rows
        if listed and not 0 <= min(listed) <= max(listed) < self.count:
            raise IndexError(f"rows {min(listed)} to {max(listed)} were asked for, there are rows 0 to {self.count - 1}")
        return [self._cells[name](listed) for name in names]

    def select(self, parsed: Filter, pace: Callable[[], object] = at_once) -> Selection:
        """The rows that a filter matches; repeated filters and repeated conditions come from the cache.

        Args:
            parsed: over the columns of these documents.
            pace: called before each part of a filter that is not in the cache: on millions of rows a condition takes
                milliseconds, and so do ten parts to be put together; it may raise to give up.
        """

        def compute(condition: Condition) -> Selection:
            return replace(condition.select(self._table), meaning=condition)

        def resolve(condition: Condition) -> Selection:
            return compute(condition) if condition is parsed else self._cache.get_or(condition, lambda: compute(condition))

        return self._cache.get_or(parsed, lambda: replace(select(parsed, self.count, resolve, pace), meaning=parsed))

    def filter_stats(self) -> CacheStats:
        """How the cache of filters does."""
        return self._cache.stats()


def open_documents(folder: Path, filter_cache_bytes: int = 0) -> Documents:
    """Memory-map every ``*.arrow`` file of ``folder``, in the order of their names.

    Args:
        folder: of the snapshot.
        filter_cache_bytes: most memory that is used for what filters have selected; 0 for none.

    Raises:
        ManifestError: no file, or one that is not Arrow IPC, compressed, or larger once read.
        CountMismatchError: the files have different schemas.
    """
    return Documents(open_table(folder), filter_cache_bytes)


def open_table(folder: Path) -> pa.Table:
    """The documents as one memory-mapped table; raises what ``open_documents`` does."""
    paths = sorted(folder.glob("*.arrow"))
    if not paths:
        raise ManifestError(f"{folder}: no *.arrow file; publish the snapshot again")
    tables = [_open(path) for path in paths]
    if any(table.schema != tables[0].schema for table in tables):
        raise CountMismatchError(f"{folder}: the files have different columns; publish the snapshot again")
    return pa.concat_tables(tables)


def _open(path: Path) -> pa.Table:
    try:
        source = pa.memory_map(str(path))
        reader = pa.ipc.open_file(source)
        columns_of(reader.schema)  # before anything is read that would be decoded
        check_plain(source, path)
        return reader.read_all()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last, of names in the schema
        raise ManifestError(f"{path}: not an Arrow IPC file ({error}); publish the snapshot again") from error
