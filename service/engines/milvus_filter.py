"""Filters in the expression language of Milvus, meaning exactly what they mean here.

Missing values have a flag beside them (``snapshot.collection``), so that a comparison with one is false and its complement
true in every version of Milvus. Numbers are compared as the documents' columns are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import FieldError, InvalidRequestError
from snapshot.collection import ROW, there_field, value_field
from snapshot.filters import All, Any_, Compare, Exists, Filter, In, Not, Scalar, float_bound, integer_bound
from snapshot.manifest import Column
from snapshot.selection import Selection

MOST_LISTED_ROWS = 16_384
_INT64 = np.iinfo(np.int64)
_NEVER, _ALWAYS = f"{ROW} < 0", f"{ROW} >= 0"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_OPERATORS = {"$eq": "==", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Translator:
    """Expressions over the columns of one manifest."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._fields: Mapping[str, tuple[str, str]] = {
            column.name: (value_field(number), there_field(number)) for number, column in enumerate(columns)
        }

    def expression(self, selection: Selection) -> str:
        """What selects these rows: their meaning, or, without one, their numbers.

        Raises:
            InvalidRequestError: there is no such expression; names the column and the value.
        """
        if selection.meaning is not None:
            return self._filter(selection.meaning)
        return _rows(selection)

    def _filter(self, parsed: Filter) -> str:
        match parsed:
            case Not(operand):
                return f"not ({self._filter(operand)})"
            case All(operands):
                return " and ".join(f"({self._filter(part)})" for part in operands) or _ALWAYS
            case Any_(operands):
                return " or ".join(f"({self._filter(part)})" for part in operands)
            case Exists(column):
                return f"{self._fields[column.name][1]} == true"
            case In(column, values):
                parts = [self._compare(column, "$eq", value) for value in values]
                return " or ".join(f"({part})" for part in parts) or _NEVER
            case Compare(column, operator, value):
                return self._compare(column, operator, value)

    def _compare(self, column: Column, operator: str, value: Scalar) -> str:
        field, there = self._fields[column.name]
        if column.type == "integer":
            bounded = _integer(operator, value)
            if isinstance(bounded, bool):
                return f"{there} == true" if bounded else _NEVER
            operator, literal = bounded
        elif column.type == "number":
            operator, number = float_bound(operator, value)
            if number is None:
                return _NEVER
            literal = repr(number)
        else:
            literal = _literal(column, value)
        return f"{there} == true and {field} {_OPERATORS[operator]} {literal}"


def _integer(operator: str, value: Scalar) -> tuple[str, str] | bool:
    """The comparison with an integer that the server can read; or whether every value satisfies it, where all or none do."""
    operator, bound = integer_bound(operator, value)
    if bound is not None and _INT64.min < bound <= _INT64.max:
        return operator, str(bound)
    if bound == _INT64.min:  # which its parser takes for minus of something too large
        least = str(_INT64.min + 1)
        if operator in ("$gte", "$lt"):
            return operator == "$gte"
        return "$gte" if operator == "$gt" else "$lt", least
    below = operator in ("$lt", "$lte")
    return not (bound is None or operator == "$eq" or below != (bound > 0))


def _literal(column: Column, value: Scalar) -> str:
    return _text(column, value) if isinstance(value, str) else str(bool(value)).lower()


def _text(column: Column, value: str) -> str:
    """In double quotes, with the escapes that every version reads; other characters as they are."""
    if "\0" in value:
        message = f"{value!r:.60} has a character that the engine of this snapshot (Milvus) cannot compare; leave it out"
        raise InvalidRequestError(FieldError(f"filter.{column.name}", message))
    return f'"{value.translate(_ESCAPES)}"'


def _rows(selection: Selection) -> str:
    if not selection.count:
        return _NEVER
    rows = selection.rows()
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == selection.count:
        return f"{ROW} >= {first} and {ROW} <= {last}"
    if selection.count <= MOST_LISTED_ROWS:
        return f"{ROW} in {rows.tolist()}"
    if selection.total - selection.count <= MOST_LISTED_ROWS:
        return f"{ROW} not in {(~selection).rows().tolist()}"
    message = f"{selection.count} rows without a filter that selects them; Milvus is told at most {MOST_LISTED_ROWS} one by one"
    raise InvalidRequestError(FieldError("filter", message))
