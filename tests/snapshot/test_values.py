"""Values become Arrow's without pandas, and are the same as by pyarrow's own way."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from snapshot.documents import document_field, write_documents
from snapshot.manifest import ColumnType
from snapshot.values import array_of, scalar_of

CASES = [
    (["", "a", "Äpfel 🍏", "x" * 1000], pa.string()),
    ([0, -1, 2**63 - 1, -(2**63)], pa.int64()),
    ([0.0, -1.5, float("inf"), 3], pa.float64()),
    ([True, False] * 9, pa.bool_()),
]


@pytest.mark.parametrize(("values", "kind"), CASES)
def test_an_array_is_that_of_pyarrow(values: list[object], kind: pa.DataType) -> None:
    made = array_of(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))
    assert array_of([], kind).equals(pa.array([], kind))
    assert [scalar_of(value, kind) for value in values] == [pa.scalar(value, kind) for value in values]


def test_rows_from_numpy_need_not_be_contiguous() -> None:
    assert array_of(np.arange(10)[::2], pa.int64()).to_pylist() == [0, 2, 4, 6, 8]


WALK = """
import sys
from pathlib import Path
from snapshot.documents import open_documents
from snapshot.filters import parse_filter
documents = open_documents(Path(sys.argv[1]))
asked = [{"s": "a"}, {"s": {"$in": ["a", "b"]}}, {"i": {"$gte": 2.5}}, {"n": {"$lt": 1}}, {"b": True}]
for raw in [*asked, {"i": {"$exists": False}}, {"b": {"$ne": True}}]:
    assert documents.select(parse_filter(raw, documents.columns)).total == 600
assert len(documents.fields(range(600))) == 600
print(*[name for name in sys.modules if name == "pandas"])
"""


def test_filters_and_many_rows_do_not_import_pandas(tmp_path: Path) -> None:
    """It is installed with the tests' own packages, so pyarrow would find it."""
    assert find_spec("pandas") is not None
    kinds: dict[str, ColumnType] = {"s": "string", "i": "integer", "n": "number", "b": "boolean"}
    fields = [document_field(name, kind, filterable=True) for name, kind in kinds.items()]
    rows = [{"id": str(i), "s": "abc"[i % 3], "i": i if i % 2 else None, "n": i / 7, "b": i % 5 == 0} for i in range(300)]
    for part in ("first", "second"):
        write_documents(pa.Table.from_pylist(rows, schema=pa.schema([pa.field("id", pa.string()), *fields])), tmp_path / part)
    (tmp_path / "second/part-00000.arrow").rename(tmp_path / "first/part-00001.arrow")
    ran = subprocess.run([sys.executable, "-c", WALK, tmp_path / "first"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
