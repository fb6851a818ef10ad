"""The filter language under fuzzing: any JSON is a filter or an error with its place; any filter selects what its oracle does."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshot.documents import columns_of, document_field
from snapshot.errors import FilterError
from snapshot.filters import parse_filter, select

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        document_field("brand", "string", filterable=True),
        document_field("price", "integer", filterable=True),
        document_field("score", "number", filterable=True),
        document_field("used", "boolean", filterable=True),
        document_field("text", "string", filterable=False),
    ]
)
COLUMNS = columns_of(SCHEMA)
OPERATORS = (
    "$eq",
    "$ne",
    "$in",
    "$nin",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$exists",
    "$not",
    "$and",
    "$or",
    "$nor",
    "$where",
    "$",
    "",
)
KEYS = st.one_of(st.sampled_from([*OPERATORS, *SCHEMA.names, "id", "__class__", "brand.x", "{0}"]), st.text(max_size=4))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=6),
    st.characters(categories=["Cs"]),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=20
)
TABLE = pa.Table.from_pylist(
    [
        {"id": "0", "brand": "HP", "price": 3, "score": 0.5, "used": True, "text": "a"},
        {"id": "1", "brand": None, "price": None, "score": None, "used": None, "text": None},
    ],
    schema=SCHEMA,
)


def rows_of(raw: Any, table: pa.Table) -> list[int]:
    return select(parse_filter(raw, COLUMNS), table.num_rows, lambda condition: condition.select(table)).rows().tolist()


def refusal_of(raw: Any) -> FilterError | None:
    try:
        parse_filter(raw, COLUMNS)
    except FilterError as error:
        return error
    return None


def reached(raw: Any, path: str) -> bool:
    """Whether segments joined by dots lead somewhere in ``raw``; keys may have dots themselves."""
    if path == "":
        return True
    if isinstance(raw, dict):
        return any(path == key or (path.startswith(f"{key}.") and reached(raw[key], path[len(key) + 1 :])) for key in raw)
    first, _, rest = path.partition(".")
    return isinstance(raw, list) and first.isdecimal() and int(first) < len(raw) and reached(raw[int(first)], rest)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=ANYTHING)
def test_any_json_selects_rows_or_is_refused_with_the_place_that_is_wrong(raw: Any) -> None:
    error = refusal_of(raw)
    if error is None:
        rows = rows_of(raw, TABLE)
        assert set(rows) <= {0, 1}
        assert rows_of({"$and": [raw, raw]}, TABLE) == rows
    else:
        assert reached(raw, error.path)
        assert str(error).startswith(f"filter{'.' + error.path if error.path else ''}: ")
        assert len(str(error)) > len(error.path) + 12


NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.5, -0.0, 2.0**53, 2**53 + 1, 2.0**63, -(2**63), 2**63 - 1, 1e300, 5e-324]),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "A", "ä", "a\u0308", "aa", "\x00"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
)
OPERANDS = {"brand": TEXTS, "price": NUMBERS, "score": NUMBERS, "used": st.booleans()}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "brand": st.none() | TEXTS,
            "price": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
            "score": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3).map(float),
            "used": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """One or several operators on one column, or a plain value."""
    name = draw(st.sampled_from(sorted(OPERANDS)))
    operand = OPERANDS[name]
    if draw(st.booleans()):
        return {name: draw(operand)}
    of_lists = {operator: st.lists(operand, max_size=4) for operator in ("$in", "$nin")}
    order = {} if name == "used" else dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), operand)
    every = {"$eq": operand, "$ne": operand, "$exists": st.booleans(), **of_lists, **order}
    names = draw(st.lists(st.sampled_from(sorted(every)), min_size=1, max_size=3, unique=True))
    condition: dict[str, Any] = {operator: draw(every[operator]) for operator in names}
    return {name: {"$not": condition} if draw(st.booleans()) else condition}


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"$and": items}),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"$or": items}),
        inner.map(lambda item: {"$not": item}),
        st.tuples(inner, inner).map(lambda pair: {**pair[0], **pair[1]}),
    ),
    max_leaves=6,
)


def holds(raw: dict[str, Any], row: dict[str, Any]) -> bool:
    """The naive evaluation: Python's own comparisons, whose numbers are exact."""
    return all(_holds(key, value, row) for key, value in raw.items())


def _holds(key: str, value: Any, row: dict[str, Any]) -> bool:
    match key:
        case "$and":
            return all(holds(item, row) for item in value)
        case "$or":
            return any(holds(item, row) for item in value)
        case "$not":
            return not holds(value, row)
    return _compares(value if isinstance(value, dict) else {"$eq": value}, row[key])


def _compares(condition: dict[str, Any], found: Any) -> bool:
    here = found is not None
    tests = {
        "$eq": lambda operand: here and found == operand,
        "$ne": lambda operand: not (here and found == operand),
        "$in": lambda operand: here and found in operand,
        "$nin": lambda operand: not (here and found in operand),
        "$gt": lambda operand: here and found > operand,
        "$gte": lambda operand: here and found >= operand,
        "$lt": lambda operand: here and found < operand,
        "$lte": lambda operand: here and found <= operand,
        "$exists": lambda operand: here == operand,
        "$not": lambda operand: not _compares(operand, found),
    }
    return all(tests[operator](operand) for operator, operand in condition.items())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=FILTERS, rows=ROWS)
def test_any_filter_selects_what_python_selects_of_any_rows(raw: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist([{**row, "id": "x", "text": "x"} for row in rows], schema=SCHEMA)
    assert rows_of(raw, table) == [number for number, row in enumerate(rows) if holds(raw, row)]
    again = json.loads(json.dumps(raw))
    assert parse_filter(again, COLUMNS) == parse_filter(raw, COLUMNS)
