"""The filter language: a Mongo-style subset over declared columns, parsed to a tree that selects rows.

    {"brand": "Logitech", "price_cents": {"$lt": 5000}, "$or": [{"year": {"$gte": 2015}}, {"colour": {"$exists": false}}]}

Two-valued logic: a comparison with a missing value is false, and ``$ne``, ``$nin`` and ``$not`` are the complement
of what they negate, so they do match rows without a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snapshot.errors import FilterError
from snapshot.manifest import Column
from snapshot.selection import Selection
from snapshot.values import array_of, scalar_of

MAX_DEPTH = 8
MAX_CONDITIONS = 256
"""Empty objects included."""
MAX_LIST_VALUES = 1000
"""In all lists of a filter together."""

MAX_BRACKETS = MAX_CONDITIONS * (2 * MAX_DEPTH + 3)
"""Objects and lists of a filter's JSON, where each condition is as deep as it may be, in lists, and is a list of values."""

Scalar = str | int | float | bool

_ORDER = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_ORDER, "$exists", "$not")
_LOGIC = ("$and", "$or", "$not")
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Compare:
    """``column operator value`` with operator one of $eq, $gt, $gte, $lt, $lte; false where the value is missing."""

    column: Column
    operator: str
    value: Scalar

    def select(self, table: pa.Table) -> Selection:
        """The rows of ``table`` that match."""
        values = table.column(self.column.name)
        if self.column.type == "number":
            operator, number = float_bound(self.operator, self.value)
            return Selection.none(len(values)) if number is None else _compare(values, operator, number)
        if self.column.type != "integer":
            return _compare(values, self.operator, self.value)
        operator, bound = integer_bound(self.operator, self.value)
        if bound is not None and _INT64.min <= bound <= _INT64.max:
            return _compare(values, operator, bound)
        below = operator in ("$lt", "$lte")
        if bound is None or operator == "$eq" or below != (bound > 0):
            return Selection.none(len(values))
        return _selection(pc.is_valid(values))


@dataclass(frozen=True, slots=True)
class In:
    """The value is one of ``values``."""

    column: Column
    values: tuple[Scalar, ...]

    def select(self, table: pa.Table) -> Selection:
        """The rows of ``table`` that match."""
        column = table.column(self.column.name)
        wanted = [exact for value in self.values for exact in self._exact(value)]
        return _selection(pc.is_in(column, value_set=array_of(wanted, column.type), skip_nulls=True))

    def _exact(self, value: Scalar) -> tuple[Scalar, ...]:
        """``value`` as the column would hold it: both zeros, which Arrow tells apart here; nothing where it cannot hold it."""
        if self.column.type == "number":
            _, number = float_bound("$eq", value)
            return () if number is None else (number,) if number else (0.0, -0.0)
        if self.column.type != "integer":
            return (value,)
        _, bound = integer_bound("$eq", value)
        return (bound,) if bound is not None and _INT64.min <= bound <= _INT64.max else ()


@dataclass(frozen=True, slots=True)
class Exists:
    """The row has a value."""

    column: Column

    def select(self, table: pa.Table) -> Selection:
        """The rows of ``table`` that match."""
        return _selection(pc.is_valid(table.column(self.column.name)))


@dataclass(frozen=True, slots=True)
class Not:
    """The complement."""

    operand: Filter


@dataclass(frozen=True, slots=True)
class All:
    """Every operand matches; an empty one matches everything."""

    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Any_:  # noqa: N801  the trailing underscore keeps clear of typing.Any
    """At least one operand matches."""

    operands: tuple[Filter, ...]


Condition = Compare | In | Exists
Filter = Condition | Not | All | Any_
"""A parsed filter; equal ones select the same rows, and hash alike."""


def at_once() -> None:
    """Nobody gives up."""


def select(
    parsed: Filter, total: int, condition: Callable[[Condition], Selection], pace: Callable[[], object] = at_once
) -> Selection:
    """The rows out of ``total`` that a filter matches, those of its conditions taken from ``condition``.

    ``pace`` is called before each of its parts, and may raise to give up.
    """
    pace()
    match parsed:
        case Not(operand):
            return ~select(operand, total, condition, pace)
        case All(operands):
            return reduce(and_, (select(part, total, condition, pace) for part in operands), ~Selection.none(total))
        case Any_(operands):
            return reduce(or_, (select(part, total, condition, pace) for part in operands))
        case _:
            return condition(parsed)


def parse_filter(raw: Mapping[str, Any], columns: Iterable[Column]) -> Filter:
    """Parse a filter over the filterable ones of ``columns``.

    Raises:
        FilterError: unknown field or operator, a value of the wrong type, or beyond ``MAX_DEPTH``,
            ``MAX_CONDITIONS`` or ``MAX_LIST_VALUES``; carries the path.
    """
    return _Parser({column.name: column for column in columns}).parse(raw, (), 0)


class _Parser:
    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._conditions = 0
        self._list_values = 0

    def parse(self, raw: object, path: tuple[str, ...], depth: int) -> Filter:
        if not isinstance(raw, Mapping):
            raise _error(f'expected an object such as {{"field": value}}, got {_kind(raw)}', path)
        if depth > MAX_DEPTH:
            raise _error(f"nested deeper than {MAX_DEPTH} levels", path)
        if not raw:
            self._count(path)  # it matches everything, which costs as much as a condition
        parts = [self._entry(str(key), value, (*path, str(key)), depth) for key, value in raw.items()]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _entry(self, key: str, value: object, path: tuple[str, ...], depth: int) -> Filter:
        if key == "$not":
            return Not(self.parse(value, path, depth + 1))
        if key in _LOGIC:
            if not isinstance(value, list) or not value:
                raise _error(f"{key} takes a list of at least one filter", path)
            operands = tuple(self.parse(item, (*path, str(i)), depth + 1) for i, item in enumerate(value))
            return All(operands) if key == "$and" else Any_(operands)
        if key.startswith("$"):
            raise _error(f"unknown operator {key!r}; between fields there are {', '.join(_LOGIC)}", path)
        return self._field(self._column(key, path), value, path, depth)

    def _column(self, name: str, path: tuple[str, ...]) -> Column:
        column = self._columns.get(name)
        if column is None or not column.filterable:
            known = ", ".join(sorted(c.name for c in self._columns.values() if c.filterable)) or "none in this snapshot"
            what = "cannot be filtered on" if column is not None else "is not a field"
            raise _error(f"{name!r} {what}; filterable fields: {known}", path)
        return column

    def _field(self, column: Column, value: object, path: tuple[str, ...], depth: int) -> Filter:
        if not isinstance(value, Mapping):
            return self._operator(column, "$eq", value, path, depth)
        if not value:
            raise _error(f"no operator; there are {', '.join(_OPERATORS)}", path)
        parts = tuple(self._operator(column, str(key), item, (*path, str(key)), depth) for key, item in value.items())
        return parts[0] if len(parts) == 1 else All(parts)

    def _operator(self, column: Column, operator: str, value: object, path: tuple[str, ...], depth: int) -> Filter:
        self._count(path)
        if operator not in _OPERATORS:
            raise _error(f"unknown operator {operator!r}; there are {', '.join(_OPERATORS)}", path)
        match operator:
            case "$ne":
                return Not(Compare(column, "$eq", _scalar(column, value, path)))
            case "$in":
                return In(column, self._scalars(column, value, path))
            case "$nin":
                return Not(In(column, self._scalars(column, value, path)))
            case "$exists":
                return _exists(column, value, path)
            case "$not":
                return self._negated(column, value, path, depth + 1)
            case _:
                return _comparison(column, operator, value, path)

    def _count(self, path: tuple[str, ...]) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _error(f"more than {MAX_CONDITIONS} conditions", path)

    def _scalars(self, column: Column, value: object, path: tuple[str, ...]) -> tuple[Scalar, ...]:
        if not isinstance(value, list):
            raise _error(f"expected a list of values, got {_kind(value)}", path)
        self._list_values += len(value)
        if self._list_values > MAX_LIST_VALUES:
            raise _error(f"{self._list_values} values in lists so far; at most {MAX_LIST_VALUES} in a filter", path)
        return tuple(_scalar(column, item, (*path, str(i))) for i, item in enumerate(value))

    def _negated(self, column: Column, value: object, path: tuple[str, ...], depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise _error(f"nested deeper than {MAX_DEPTH} levels", path)
        return Not(self._field(column, value, path, depth))


def _comparison(column: Column, operator: str, value: object, path: tuple[str, ...]) -> Filter:
    if operator in _ORDER and column.type == "boolean":
        raise _error(f"{column.name!r} is a boolean, which has no order; use $eq or $ne", path)
    return Compare(column, operator, _scalar(column, value, path))


def _exists(column: Column, value: object, path: tuple[str, ...]) -> Filter:
    if not isinstance(value, bool):
        raise _error(f"$exists takes true or false, got {_kind(value)}", path)
    return Exists(column) if value else Not(Exists(column))


def _scalar(column: Column, value: object, path: tuple[str, ...]) -> Scalar:
    if isinstance(value, bool) and column.type == "boolean":
        return value
    if isinstance(value, str) and column.type == "string":
        return _encodable(value, path)
    if isinstance(value, int | float) and not isinstance(value, bool) and column.type in ("integer", "number"):
        return _finite(value, path)
    hint = "; use $exists to look for missing values" if value is None else ""
    raise _error(f"{column.name!r} is of type {column.type}, got {_kind(value)}{hint}", path)


def _finite(value: int | float, path: tuple[str, ...]) -> int | float:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        finite = False
    if not finite:
        raise _error("not a finite number", path)
    return value


def _encodable(value: str, path: tuple[str, ...]) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _error("not valid Unicode (a lone surrogate)", path) from error
    return value


def integer_bound(operator: str, value: Scalar) -> tuple[str, int | None]:
    """Restate a comparison of integers with any number as one with an integer, exactly; None can never hold."""
    if isinstance(value, int):
        return operator, value
    number = float(value)
    if operator == "$eq":
        return operator, int(number) if number.is_integer() else None
    return operator, math.ceil(number) if operator in ("$lt", "$gte") else math.floor(number)


def float_bound(operator: str, value: Scalar) -> tuple[str, float | None]:
    """Restate a comparison of floats with any number as one with a float, exactly; None can never hold."""
    exact = value if isinstance(value, int) else float(value)
    number = float(exact)
    if number == exact:
        return operator, number
    if operator == "$eq":
        return operator, None
    below = number if number < exact else math.nextafter(number, -math.inf)  # no float lies between this and the value
    return ("$gt" if operator in ("$gt", "$gte") else "$lte"), below


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "$eq": pc.equal,
    "$gt": pc.greater,
    "$gte": pc.greater_equal,
    "$lt": pc.less,
    "$lte": pc.less_equal,
}


def _compare(values: pa.ChunkedArray, operator: str, value: Scalar) -> Selection:
    return _selection(_COMPARE[operator](values, scalar_of(value, values.type)))


def _selection(matches: pa.ChunkedArray) -> Selection:
    """The rows that are true, not those that are null: Arrow's bitmaps are laid out as a selection's."""
    found = matches.combine_chunks()
    if found.offset:
        return Selection.of_mask(pc.fill_null(found, False).to_numpy(zero_copy_only=False))
    valid, matched = found.buffers()
    size = -(-len(found) // 8)
    bits = np.frombuffer(matched, np.uint8)[:size]
    return Selection.of_bits(bits.copy() if valid is None else bits & np.frombuffer(valid, np.uint8)[:size], len(found))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _error(message: str, path: tuple[str, ...]) -> FilterError:
    place = ".".join(path)
    return FilterError(f"filter{'.' + place if place else ''}: {message}", place)
