import json

import pyarrow as pa
import pytest

from offline.data.metadata import MetadataColumns
from offline.errors import DataError
from snapshot.documents import columns_of


def collect(*rows):
    columns = MetadataColumns()
    for line, row in enumerate(rows, start=1):
        columns.add(row, f"corpus.jsonl:{line}", line)
    found = columns.columns(len(rows))
    schema = pa.schema([pa.field("id", pa.string()), *(field for field, _ in found)])
    return {column.name: column for column in columns_of(schema)}, {field.name: values for field, values in found}


def test_types_are_inferred_over_the_whole_corpus():
    columns, values = collect({"s": "a", "i": 1, "n": 1, "b": True}, None, {"s": None, "i": 2, "n": 0.5, "b": False})
    assert {name: column.type for name, column in columns.items()} == {
        "s": "string",
        "i": "integer",
        "n": "number",
        "b": "boolean",
    }
    assert all(column.filterable for column in columns.values())
    assert values == {"s": ["a", None, None], "i": [1, None, 2], "n": [1, None, 0.5], "b": [True, None, False]}


def test_a_list_is_shown_as_one_string_and_not_filtered_on_and_told_once(capsys):
    columns, values = collect({"tags": ["red", 7]}, {"tags": []})
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: corpus.jsonl:1: metadata.tags is a list; lists are kept as one string with commas")
    assert (columns["tags"].type, columns["tags"].filterable) == ("string", False)
    assert values["tags"] == ["red, 7", ""]


def test_only_the_first_rows_are_given():
    columns = MetadataColumns()
    for value in range(3):
        columns.add({"a": value}, "x", value)
    [(_, values)] = columns.columns(2)
    assert values == [0, 1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, "x", None, "y"], "corpus.jsonl:2: metadata.a is of type string here and of type integer in line 1;"),
        ([True, 1, 2.5], "corpus.jsonl:2: metadata.a is of type integer here and of type boolean in line 1;"),
        ([["x"], "x"], "corpus.jsonl:2: metadata.a is of type string here and of type list in line 1;"),
        ([{"b": "ü"}, {"b": {}}], "corpus.jsonl:1: metadata.a is nested;"),
        ([[[1]]], "corpus.jsonl:1: metadata.a is nested;"),
        (["x", {"b": 1}, 3], "corpus.jsonl:2: metadata.a is nested here and of type string in line 1;"),
    ],
)
def test_what_makes_no_column_to_filter_on_is_shown_as_json_and_told_once(values, told, capsys):
    columns, found = collect(*({"a": value, "b": 1} for value in values))
    assert (columns["a"].type, columns["a"].filterable) == ("string", False)
    assert (columns["b"].type, columns["b"].filterable) == ("integer", True)
    assert [None if text is None else json.loads(text) for text in found["a"]] == values
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "is a list; " not in line]
    assert warning.startswith(f"warning: {told}")
    assert "kept as JSON text, to be shown but not filtered on" in warning


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1.0}, {"a": float("inf")}], r"corpus\.jsonl:2: metadata\.a: the number is too large to be kept; write it as"),
        ([{"a": 2**63}], r"corpus\.jsonl:1: metadata\.a: \d+ does not fit 64 bits; write it as a string"),
        ([{"title": "x"}], r"corpus\.jsonl:1: metadata\.title has the name of a field that every document has; rename"),
        ([{"$and": 1}], r"corpus\.jsonl:1: metadata has the key '\$and', which no filter could name; rename"),
        ([["x"]], r"corpus\.jsonl:1: metadata is a list; it must be an object"),
    ],
)
def test_refuses_what_makes_no_column(rows, message):
    with pytest.raises(DataError, match=message):
        collect(*rows)
