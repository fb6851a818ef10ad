"""Filters told to Milvus select what they select here: random ones, over values that are hard to quote and to compare."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from milvus_servers import server_params, uri_of, write_vectors

from service.engines.milvus_filter import Translator
from service.engines.milvus_wire import Wire
from service.engines.remote import MilvusServer
from service.errors import InvalidRequestError
from snapshot.documents import Documents, document_field
from snapshot.filters import parse_filter
from snapshot.selection import Selection

ROWS = 240
INTEGERS = (-(2**63), -(2**63) + 1, -(2**53) - 1, -1, 0, 1, 7, 2**53, 2**53 + 1, 2**63 - 1)
NUMBERS = (-1.7976931348623157e308, -1e-5, -0.0, 0.0, 5e-324, 1e-5, 0.1, 1 / 3, 7.0, 2.0**53, 1.7976931348623157e308)
TEXTS = (
    *("", "plain", '"quoted"', "it's", "back\\slash", '\\"', "\\\\", "\\n", "new\nline", "tab\t", "\r", "\x01", "\x7f", "\u0085"),
    *(
        "ünï",
        "日本",
        "😀",
        "e\u0301",
        "é",
        "{x}",
        "%s",
        "$c1",
        "c1 == 1",
        '" or row >= 0 or c1 == "',
        "a\u2028b",
        "ß",
        "Z",
        "z",
        "\ufeff",
    ),
)


def table() -> pa.Table:
    """Every value several times, and every seventh row without one."""
    rng = random.Random(5)
    kinds: dict[str, tuple[Any, Any]] = {
        "text": ("string", TEXTS),
        "integer": ("integer", INTEGERS),
        "number": ("number", NUMBERS),
        "flag": ("boolean", (True, False)),
    }
    columns: dict[str, list[Any]] = {"id": [f"dök-{row}-{TEXTS[row % len(TEXTS)]!r}" for row in range(ROWS)]}
    for name, (_, values) in kinds.items():
        columns[name] = [None if rng.random() < 1 / 7 else rng.choice(values) for _ in range(ROWS)]
    fields = [document_field(name, kind, filterable=True) for name, (kind, _) in kinds.items()]
    return pa.table(columns, schema=pa.schema([pa.field("id", pa.string()), *fields]))


class Server:
    """A collection of the table, and the oracle."""

    def __init__(self, uri: str) -> None:
        vectors = np.eye(ROWS, 8, dtype=np.float32) + np.float32(0.01)
        self.documents = Documents(table())
        self._index = write_vectors(uri, vectors, table())
        self._wire = Wire(MilvusServer(uri))
        self._translator = Translator(self.documents.columns)

    def selected(self, selection: Selection) -> list[int]:
        expression = self._translator.expression(selection)
        found = self._wire.rows(self._index.collection, expression, ["row"], 30.0)
        return sorted(found.get("row", []))

    def agrees(self, raw: dict[str, Any]) -> None:
        selection = self.documents.select(parse_filter(raw, self.documents.columns))
        assert self.selected(selection) == selection.rows().tolist(), raw

    def close(self) -> None:
        self._wire.close()


@pytest.fixture(scope="module", params=server_params())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    found = Server(uri_of(request.param))
    yield found
    found.close()


def leaf(rng: random.Random) -> dict[str, Any]:
    name, values = rng.choice([("text", TEXTS), ("integer", INTEGERS), ("number", NUMBERS), ("flag", (True, False))])
    others = (2**70, -(2**70), 0.5, -(2.0**63), 2.0**63, 1e300)
    pool = [*values, *others] if name in ("integer", "number") else list(values)
    order = [] if name == "flag" else ["$lt", "$lte", "$gt", "$gte"]
    operator = rng.choice(["$eq", "$ne", "$in", "$nin", "$exists", *order])
    if operator == "$exists":
        return {name: {operator: rng.random() < 0.5}}
    if operator in ("$in", "$nin"):
        return {name: {operator: rng.sample(pool, rng.randint(0, len(pool)))}}
    return {name: {operator: rng.choice(pool)}}


def tree(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.choice(["$and", "$or", "$not", "leaf", "leaf"]) if depth else "leaf"
    if kind == "leaf":
        return leaf(rng)
    if kind == "$not":
        return {"$not": tree(rng, depth - 1)}
    return {kind: [tree(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def test_random_filters_select_the_same_rows(server: Server) -> None:
    rng = random.Random(11)
    for _ in range(150):
        server.agrees(tree(rng, 3))


def test_every_text_is_found_by_its_own_value_and_orders_as_here(server: Server) -> None:
    for value in TEXTS:
        server.agrees({"text": value})
        server.agrees({"text": {"$gt": value}})


def test_every_integer_bound_is_exact(server: Server) -> None:
    for value in (*INTEGERS, 2**63, -(2**63) - 1, 0.5, -0.5, 2.0**53, float(2**63)):
        for operator in ("$eq", "$lt", "$lte", "$gt", "$gte"):
            server.agrees({"integer": {operator: value}})


def test_every_number_is_compared_exactly_with_integers_that_no_float_holds(server: Server) -> None:
    for value in (*NUMBERS, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1):
        for operator in ("$eq", "$lt", "$lte", "$gt", "$gte"):
            server.agrees({"number": {operator: value}})


def test_the_empty_filter_selects_everything(server: Server) -> None:
    server.agrees({})


@pytest.mark.parametrize("rows", [[], [7], [3, 4, 5], [0, 2, 239], list(range(240)), [*range(100), *range(101, 240)]])
def test_rows_without_a_filter_are_told_by_their_numbers(server: Server, rows: list[int]) -> None:
    mask = np.zeros(ROWS, np.bool_)
    mask[rows] = True
    assert server.selected(Selection.of_mask(mask)) == rows


def test_what_cannot_be_told_is_refused_by_name() -> None:
    documents = Documents(table())
    translator = Translator(documents.columns)
    with pytest.raises(InvalidRequestError, match=r"filter\.text.*'a\\x00b'"):
        translator.expression(documents.select(parse_filter({"text": {"$ne": "a\0b"}}, documents.columns)))
    scattered = Selection.of_mask(np.arange(60_000) % 2 == 0)
    with pytest.raises(InvalidRequestError, match="30000 rows without a filter"):
        translator.expression(scattered)
