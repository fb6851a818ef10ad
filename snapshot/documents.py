"""The documents: Arrow rows with an id, stored fields and filterable columns; row i is row i of the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from snapshot.errors import CountMismatchError, ManifestError
from snapshot.files import atomic_write
from snapshot.filters import Filter, Mask
from snapshot.manifest import Column, ColumnType

FieldValue = str | int | float | bool | None
Rows = Sequence[int] | npt.NDArray[np.int64]

_ARROW: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_FILTERABLE = b"filterable"


def document_field(name: str, kind: ColumnType, *, filterable: bool) -> pa.Field:
    """The Arrow field of one column; whether it can be filtered on travels in the field's metadata."""
    return pa.field(name, _ARROW[kind], metadata={_FILTERABLE: b"true" if filterable else b"false"})


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns beside ``id`` that a documents schema declares.

    Raises:
        ManifestError: the first column is not a string named ``id``, or a column has another type.
    """
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


class Documents:
    """Memory-mapped documents, read-only and safe to use from several threads."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.columns = columns_of(table.schema)
        self.names = tuple(column.name for column in self.columns)

    @property
    def count(self) -> int:
        return int(self._table.num_rows)

    def ids(self, rows: Rows) -> list[str]:
        """The ids of ``rows``, in that order."""
        ids: list[str] = self._table.column("id").take(_indices(rows)).to_pylist()
        return ids

    def fields(
        self, rows: Sequence[int] | npt.NDArray[np.int64], names: Sequence[str] | None = None
    ) -> list[dict[str, FieldValue]]:
        """The stored fields of ``rows``, in that order: all, or those in ``names`` (which must be columns)."""
        wanted = self.names if names is None else tuple(names)
        if not wanted:
            return [{} for _ in rows]
        indices = _indices(rows)
        values = [self._table.column(name).take(indices).to_pylist() for name in wanted]
        return [dict(zip(wanted, row, strict=True)) for row in zip(*values, strict=True)]

    def mask(self, parsed: Filter) -> Mask:
        """bool[count]: the rows that a filter matches."""
        return parsed.mask(self._table)


def open_documents(folder: Path) -> Documents:
    """Memory-map every ``*.arrow`` file of ``folder``, in the order of their names.

    Raises:
        ManifestError: no file, or one that is not Arrow IPC.
        CountMismatchError: the files have different schemas.
    """
    paths = sorted(folder.glob("*.arrow"))
    if not paths:
        raise ManifestError(f"{folder}: no *.arrow file; publish the snapshot again")
    tables = [_open(path) for path in paths]
    if any(table.schema != tables[0].schema for table in tables):
        raise CountMismatchError(f"{folder}: the files have different columns; publish the snapshot again")
    return Documents(pa.concat_tables(tables))


def _open(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path}: not an Arrow IPC file ({error}); publish the snapshot again") from error


def _indices(rows: Rows) -> pa.Array:
    return pa.array(np.asarray(rows, dtype=np.int64))
