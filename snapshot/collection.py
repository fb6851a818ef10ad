"""What a snapshot's collection on a Milvus server holds: names of the fields, and the sample that tells one from another.

A row is told by its number, which is its primary key. A missing value has a flag beside it instead of being null: the filter
language knows two values of truth, and so does every version of Milvus without nulls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from snapshot.manifest import Column, ColumnType

ROW = "row"
ID = "id"
STORED = "stored"
"""JSON of the columns that cannot be filtered on, for whoever reads the collection; the service reads its own documents."""
VECTOR = "vector"
METRIC = "IP"
MAX_TEXT_BYTES = 65_535
"""Of an id, a string that can be filtered on, or the stored fields of a row: what Milvus holds."""

_SAMPLE = 256
_SEED = 23
BLANKS: dict[ColumnType, str | int | float | bool] = {"string": "", "integer": 0, "number": 0.0, "boolean": False}
"""In place of missing values."""
_TYPES: dict[ColumnType, str] = {"string": "VARCHAR", "integer": "INT64", "number": "DOUBLE", "boolean": "BOOL"}


def value_field(column: int) -> str:
    """Field of the values of the manifest's column of that number."""
    return f"c{column}"


def there_field(column: int) -> str:
    """Field that says whether a row has a value there."""
    return f"h{column}"


def filterable(columns: Sequence[Column]) -> Iterator[tuple[int, Column]]:
    """The columns that have fields of their own, with their numbers."""
    return ((number, column) for number, column in enumerate(columns) if column.filterable)


def fields_of(columns: Sequence[Column], dim: int) -> dict[str, str]:
    """Type by name of every field, as ``MilvusIndex.fields`` has them."""
    fields = {ROW: "INT64", ID: "VARCHAR"}
    for number, column in filterable(columns):
        fields |= {value_field(number): _TYPES[column.type], there_field(number): "BOOL"}
    return fields | {STORED: "JSON", VECTOR: f"FLOAT_VECTOR({dim})"}


def sampled_rows(count: int) -> npt.NDArray[np.int64]:
    """int64[at most 256], ascending: the rows of ``count`` that are compared, the first and the last among them."""
    if count <= _SAMPLE:
        return np.arange(count)
    inner = np.random.default_rng(_SEED).choice(np.arange(1, count - 1), _SAMPLE - 2, replace=False)
    return np.concatenate([[0], np.sort(inner), [count - 1]])


def sampled_fields(columns: Sequence[Column]) -> list[str]:
    """The fields of a row that are compared, in their order; the vector beside them."""
    names = [ROW, ID]
    for number, _ in filterable(columns):
        names += [value_field(number), there_field(number)]
    return names


def fingerprint(count: int, rows: Sequence[Sequence[object]], vectors: npt.NDArray[np.float32]) -> str:
    """sha256 of a sample: the number of all rows, the ``sampled_fields`` of each of its rows, and float32[n, dim]."""
    digest = hashlib.sha256(f"{count} rows of {vectors.shape[1]}\n".encode())
    for row, vector in zip(rows, np.ascontiguousarray(vectors, "<f4"), strict=True):
        digest.update(json.dumps(list(row)).encode())
        digest.update(vector.tobytes())
    return digest.hexdigest()
