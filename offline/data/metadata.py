"""Types of metadata columns, inferred over a whole corpus."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from offline.errors import DataError
from offline.progress import say
from snapshot.documents import document_field
from snapshot.manifest import ColumnType

RESERVED = frozenset({"id", "title", "text"})
_INT64 = range(-(2**63), 2**63)
_Kind = Literal["string", "integer", "number", "boolean", "list", "json"]


@dataclass
class _Column:
    kind: _Kind
    line: int
    """Where the kind was first seen."""


class MetadataColumns:
    """Collects the metadata of one document after the other and makes typed columns of it.

    Values are strings, integers, numbers or booleans, of one type per key; integers and fractions together make
    numbers. Keys that a document lacks, or that are null, become null. A list of plain values is kept as one string
    with commas, to be shown but not filtered on. So is the JSON text of a key whose values are nested or of several types.
    A warning tells the first of each.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._rows: list[Mapping[str, Any]] = []

    def add(self, metadata: Any, where: str, line: int) -> None:
        """Add the next document's metadata, found at ``where``.

        Raises:
            DataError: it is not an object, a key is taken, or a number does not fit 64 bits.
        """
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f'{where}: metadata is a {type(metadata).__name__}; it must be an object such as {{"year": 2009}}')
        row = {key: value for key, value in (metadata or {}).items() if value is not None}
        for key, value in row.items():
            self._note(key, _kind(value, f"{where}: metadata.{key}"), where, line)
        self._rows.append(row)

    def columns(self, rows: int) -> list[tuple[pa.Field, list[Any]]]:
        """The fields, in the order in which keys were first seen, each with its first ``rows`` values."""
        return [(_field(name, column.kind), self._values(name, column.kind, rows)) for name, column in self._columns.items()]

    def _values(self, name: str, kind: _Kind, rows: int) -> list[Any]:
        values = [row.get(name) for row in self._rows[:rows]]
        if kind == "json":
            return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        if kind == "list":
            return [None if value is None else ", ".join(map(str, value)) for value in values]
        return values

    def _note(self, key: str, kind: _Kind, where: str, line: int) -> None:
        known = self._columns.get(key)
        if known is None:
            _check_key(key, where)
            self._columns[key] = _Column(kind, line)
            if kind == "json":
                _say_json(where, key, "is nested")
            elif kind == "list":
                _say_list(where, key)
        elif {known.kind, kind} == {"integer", "number"}:
            known.kind = "number"
        elif known.kind not in (kind, "json"):
            here = "nested" if kind == "json" else f"of type {kind}"
            _say_json(where, key, f"is {here} here and of type {known.kind} in line {known.line}")
            known.kind = "json"


def _say_json(where: str, key: str, fault: str) -> None:
    say(
        f"warning: {where}: metadata.{key} {fault}; all its values are kept as JSON text, to be shown but not filtered on. "
        "Give the key strings, numbers, or true and false throughout to filter on it"
    )


def _say_list(where: str, key: str) -> None:
    say(
        f"warning: {where}: metadata.{key} is a list; lists are kept as one string with commas, to be shown but not filtered on. "
        'To filter on one of its values, give that a key of its own, such as {"red": true}'
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
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: the number is too large to be kept; write it as a string")
    kinds: dict[type, _Kind] = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return kinds.get(type(value), "json")


def _field(name: str, kind: _Kind) -> pa.Field:
    stored: ColumnType = "string" if kind == "list" or kind == "json" else kind
    return document_field(name, stored, filterable=stored == kind)
