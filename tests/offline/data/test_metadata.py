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


def test_a_list_is_shown_as_one_string_and_not_filtered_on():
    columns, values = collect({"tags": ["red", 7]}, {"tags": []})
    assert (columns["tags"].type, columns["tags"].filterable) == ("string", False)
    assert values["tags"] == ["red, 7", ""]


def test_only_the_first_rows_are_given():
    columns = MetadataColumns()
    for value in range(3):
        columns.add({"a": value}, "x", value)
    [(_, values)] = columns.columns(2)
    assert values == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}, {"a": "x"}], r"corpus\.jsonl:2: metadata\.a is of type string here and of type integer in line 1; give"),
        ([{"a": True}, {"a": 1}], r"corpus\.jsonl:2: metadata\.a is of type integer here and of type boolean in line 1"),
        ([{"a": ["x"]}, {"a": "x"}], r"corpus\.jsonl:2: metadata\.a is of type string here and of type list in line 1"),
        ([{"a": {"b": 1}}], r"corpus\.jsonl:1: metadata\.a: is nested; metadata must be flat"),
        ([{"a": [[1]]}], r"corpus\.jsonl:1: metadata\.a: is nested"),
        ([{"a": 2**63}], r"corpus\.jsonl:1: metadata\.a: \d+ does not fit 64 bits; write it as a string"),
        ([{"title": "x"}], r"corpus\.jsonl:1: metadata\.title has the name of a field that every document has; rename"),
        ([{"$and": 1}], r"corpus\.jsonl:1: metadata has the key '\$and', which no filter could name; rename"),
        ([["x"]], r"corpus\.jsonl:1: metadata is a list; it must be an object"),
    ],
)
def test_refuses_what_makes_no_column(rows, message):
    with pytest.raises(DataError, match=message):
        collect(*rows)
