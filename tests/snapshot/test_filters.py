"""Filters against an oracle: the same filter evaluated row by row in plain Python."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshot.documents import columns_of, document_field
from snapshot.errors import FilterError
from snapshot.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_LIST_VALUES, parse_filter, select

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
ROWS: list[dict[str, Any]] = [
    {"id": "0", "brand": "Logitech", "price": 4999, "score": 0.5, "used": True, "text": "mouse"},
    {"id": "1", "brand": "Logitech", "price": 5000, "score": None, "used": False, "text": "mouse"},
    {"id": "2", "brand": None, "price": None, "score": -1.0, "used": None, "text": "mouse"},
    {"id": "3", "brand": "HP", "price": -3, "score": 1e300, "used": True, "text": "mouse"},
    {"id": "4", "brand": "", "price": 2**62, "score": 3.0, "used": False, "text": "mouse"},
]
TABLE = pa.Table.from_pylist(ROWS, schema=SCHEMA)

VALUES = {
    "brand": st.sampled_from(["Logitech", "HP", "", "Zebra"]),
    "price": st.one_of(st.integers(-(2**70), 2**70), st.sampled_from([4999, 4999.5, 5000.0, -3, 1e30, -1e30, 2.0**63])),
    "score": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5)),
    "used": st.booleans(),
}
ORDER = {"$gt": lambda a, b: a > b, "$gte": lambda a, b: a >= b, "$lt": lambda a, b: a < b, "$lte": lambda a, b: a <= b}


def matches(raw: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(entry_matches(key, value, row) for key, value in raw.items())


def entry_matches(key: str, value: Any, row: dict[str, Any]) -> bool:
    if key == "$and":
        return all(matches(item, row) for item in value)
    if key == "$or":
        return any(matches(item, row) for item in value)
    if key == "$not":
        return not matches(value, row)
    conditions = value if isinstance(value, dict) else {"$eq": value}
    return all(operator_matches(operator, operand, row[key]) for operator, operand in conditions.items())


def operator_matches(operator: str, operand: Any, value: Any) -> bool:
    if operator == "$exists":
        return (value is not None) == operand
    if operator in ("$ne", "$nin"):
        return not operator_matches({"$ne": "$eq", "$nin": "$in"}[operator], operand, value)
    if operator == "$not":
        return not all(operator_matches(inner, item, value) for inner, item in operand.items())
    if value is None:
        return False
    if operator == "$in":
        return value in operand
    return value == operand if operator == "$eq" else bool(ORDER[operator](value, operand))


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(VALUES)))
    value = VALUES[name]
    operators = ["$eq", "$ne", "$in", "$nin", "$exists"] + ([] if name == "used" else sorted(ORDER))
    operator = draw(st.sampled_from(operators))
    operand = draw(
        st.booleans() if operator == "$exists" else st.lists(value, max_size=3) if operator in ("$in", "$nin") else value
    )
    condition: dict[str, Any] = {operator: operand}
    return {name: draw(st.sampled_from([condition, {"$not": condition}]))}


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds(lambda items: {"$and": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda items: {"$or": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"$not": item}, inner),
    ),
    max_leaves=6,
)


CHUNKED = pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2)])


def selected(raw: dict[str, Any], table: pa.Table = TABLE) -> list[int]:
    return select(parse_filter(raw, COLUMNS), table.num_rows, lambda condition: condition.select(table)).rows().tolist()


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(1, 3), CHUNKED, CHUNKED.slice(1)], ids=["whole", "slice", "chunks", "both"])
@given(raw=FILTERS)
def test_selections_agree_with_a_row_by_row_evaluation(table: pa.Table, raw: dict[str, Any]) -> None:
    assert selected(raw, table) == [number for number, row in enumerate(table.to_pylist()) if matches(raw, row)]


def test_several_fields_are_a_conjunction_and_an_empty_filter_matches_all() -> None:
    raw = {"brand": "Logitech", "price": {"$lt": 5000, "$gte": 4000}}
    assert selected(raw) == [0]
    assert selected({}) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        ({"colour": "red"}, "colour", "'colour' is not a field; filterable fields: brand, price, score, used"),
        ({"text": "mouse"}, "text", "cannot be filtered on"),
        ({"$and": [{"brand": "HP"}, {"price": {"$near": 3}}]}, "$and.1.price.$near", "unknown operator '$near'"),
        ({"$nor": []}, "$nor", "unknown operator '$nor'"),
        ({"$or": []}, "$or", "at least one"),
        ({"$not": [1]}, "$not", "expected an object"),
        ({"price": "5000"}, "price", "of type integer, got a string"),
        ({"price": True}, "price", "of type integer, got a boolean"),
        ({"price": None}, "price", "use $exists"),
        ({"price": {}}, "price", "no operator"),
        ({"price": {"$gt": float("nan")}}, "price.$gt", "not a finite number"),
        ({"score": {"$gt": 10**400}}, "score.$gt", "not a finite number"),
        ({"used": {"$lt": True}}, "used.$lt", "has no order"),
        ({"brand": {"$in": "HP"}}, "brand.$in", "expected a list"),
        ({"brand": {"$in": ["HP", 3]}}, "brand.$in.1", "got a number"),
        ({"brand": {"$in": ["x"] * (MAX_LIST_VALUES + 1)}}, "brand.$in", f"at most {MAX_LIST_VALUES}"),
        (
            {"$or": [{"price": {"$in": [1] * 600}}, {"price": {"$in": [2] * 600}}]},
            "$or.1.price.$in",
            f"1200 values in lists so far; at most {MAX_LIST_VALUES}",
        ),
        ({"brand": {"$exists": 1}}, "brand.$exists", "true or false"),
        ({"brand": "\ud800"}, "brand", "surrogate"),
        ({"$or": [{"brand": "x"}] * (MAX_CONDITIONS + 1)}, f"$or.{MAX_CONDITIONS}.brand", "more than"),
        ({"$and": [{}] * (MAX_CONDITIONS + 1)}, f"$and.{MAX_CONDITIONS}", "more than"),
    ],
)
def test_bad_filters_are_refused_with_their_path(raw: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(raw, COLUMNS)
    assert caught.value.path == path
    assert message in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda inner: {"$not": inner}, lambda inner: {"$and": [inner]}])
def test_nesting_is_bounded(wrap: Any) -> None:
    raw: dict[str, Any] = {"brand": "HP"}
    for _ in range(MAX_DEPTH + 1):
        raw = wrap(raw)
    with pytest.raises(FilterError, match="deeper"):
        parse_filter(raw, COLUMNS)


def test_nesting_under_a_field_is_bounded() -> None:
    raw: dict[str, Any] = {"$eq": "HP"}
    for _ in range(MAX_DEPTH + 1):
        raw = {"$not": raw}
    with pytest.raises(FilterError, match="deeper"):
        parse_filter({"brand": raw}, COLUMNS)


def test_both_zeros_are_in_a_list_with_one() -> None:
    rows = pa.Table.from_pylist([{**ROWS[0], "score": score} for score in (0.0, -0.0, 1.0, None)], schema=SCHEMA)
    for zero in (0.0, -0.0, 0):
        found = parse_filter({"score": {"$in": [zero, 7]}}, COLUMNS)
        assert select(found, 4, lambda condition: condition.select(rows)).rows().tolist() == [0, 1]
