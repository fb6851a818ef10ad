"""Types of metadata columns, inferred over a whole corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from offline.errors import DataError
from snapshot.documents import document_field
from snapshot.manifest import ColumnType

RESERVED = frozenset({"id", "title", "text"})
_INT64 = range(-(2**63), 2**63)
_Kind = Literal["string", "integer", "number", "boolean", "list"]


@dataclass
class _Column:
    kind: _Kind
    line: int
    """Where the kind was first seen."""


class MetadataColumns:
    """Collects the metadata of one document after the other and makes typed columns of it.

    Values are strings, integers, numbers or booleans, of one type per key; integers and fractions together make
    numbers. Keys that a document lacks, or that are null, become null. A list of plain values is kept as one string
    with commas, to be shown but not filtered on.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._rows: list[Mapping[str, Any]] = []

    def add(self, metadata: Any, where: str, line: int) -> None:
        """Add the next document's metadata, found at ``where``.

        Raises:
            DataError: a key is taken, a value is not flat, or a type differs from that of earlier documents.
        """
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f'{where}: metadata is a {type(metadata).__name__}; it must be an object such as {{"year": 2009}}')
        row = {key: value for key, value in (metadata or {}).items() if value is not None}
        for key, value in row.items():
            self._note(key, _kind(value, f"{where}: metadata.{key}"), where, line)
        self._rows.append({key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()})

    def columns(self, rows: int) -> list[tuple[pa.Field, list[Any]]]:
        """The fields, in the order in which keys were first seen, each with its first ``rows`` values."""
        return [(_field(name, column.kind), self._values(name, rows)) for name, column in self._columns.items()]

    def _values(self, name: str, rows: int) -> list[Any]:
        return [row.get(name) for row in self._rows[:rows]]

    def _note(self, key: str, kind: _Kind, where: str, line: int) -> None:
        known = self._columns.get(key)
        if known is None:
            _check_key(key, where)
            self._columns[key] = _Column(kind, line)
        elif {known.kind, kind} == {"integer", "number"}:
            known.kind = "number"
        elif known.kind != kind:
            raise DataError(
                f"{where}: metadata.{key} is of type {kind} here and of type {known.kind} in line {known.line}; "
                "give the key one type throughout, or leave it out where it has another"
            )


def _check_key(key: str, where: str) -> None:
    if key in RESERVED:
        raise DataError(f"{where}: metadata.{key} has the name of a field that every document has; rename the key")
    if not key or key.startswith("$"):
        raise DataError(f"{where}: metadata has the key {key!r}, which no filter could name; rename the key")


def _kind(value: Any, where: str) -> _Kind:
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return "list"
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        raise DataError(f"{where}: {value} does not fit 64 bits; write it as a string")
    kinds: dict[type, _Kind] = {str: "string", bool: "boolean", int: "integer", float: "number"}
    if type(value) not in kinds:
        raise DataError(f"{where}: is nested; metadata must be flat: strings, numbers, true or false, or a list of these")
    return kinds[type(value)]


def _field(name: str, kind: _Kind) -> pa.Field:
    stored: ColumnType = "string" if kind == "list" else kind
    return document_field(name, stored, filterable=kind != "list")
