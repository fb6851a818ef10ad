"""Cells against Arrow's own conversion, over columns of any number of chunks, sliced anywhere."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshot.cells import cells_of

VALUES = {
    pa.string(): st.text(max_size=6),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
}


@st.composite
def columns(draw: st.DrawFn) -> pa.ChunkedArray:
    kind = draw(st.sampled_from(list(VALUES)))
    cell = VALUES[kind] if draw(st.booleans()) else st.none() | VALUES[kind]
    chunks = []
    for values in draw(st.lists(st.lists(cell, max_size=20), max_size=4)):
        chunk = pa.array(values, kind)
        chunks.append(chunk.slice(draw(st.integers(0, len(chunk))), draw(st.integers(0, len(chunk)))))
    return pa.chunked_array(chunks, kind)


@given(columns(), st.data())
def test_cells_are_what_arrow_makes_of_them(column: pa.ChunkedArray, data: st.DataObject) -> None:
    expected = column.to_pylist()
    rows = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=12)) if expected else []
    found = cells_of(column)(rows)
    assert found == [expected[row] for row in rows]
    assert [type(cell) for cell in found] == [type(expected[row]) for row in rows]


def test_buffers_of_a_long_column_are_read_beyond_the_first_byte_of_bits() -> None:
    flags = [None if row % 5 == 0 else row % 3 == 0 for row in range(1000)]
    column = pa.chunked_array([pa.array(flags).slice(13, 900)])
    assert cells_of(column)(range(900)) == flags[13:913]


def test_bytes_that_are_no_text_are_an_error_as_in_arrow() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(UnicodeDecodeError):
        cells_of(pa.chunked_array([broken]))([0])
