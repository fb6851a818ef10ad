"""Cells of an Arrow column by row number, read straight from the memory-mapped buffers.

Arrow's own ``take`` makes an array and a scalar a value before there is a Python object: for the few rows of an answer
that costs several times what reading costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa

Cell = str | int | float | bool | None
Read = Callable[[Sequence[int]], list[Cell]]
"""The cells of rows, in their order. The rows must exist: buffers are padded, so not every wrong one is noticed."""


def cells_of(column: pa.ChunkedArray) -> Read:
    """Random access to a column of strings, int64, float64 or booleans, of any number of chunks; copies nothing."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    reads = [_nullable(chunk, _TYPES[column.type](chunk)) for chunk in chunks]
    if len(reads) <= 1:
        return reads[0] if reads else lambda _: []
    starts = [0]
    for chunk in chunks[:-1]:
        starts.append(starts[-1] + len(chunk))

    def read(rows: Sequence[int]) -> list[Cell]:
        found = ((row, bisect_right(starts, row) - 1) for row in rows)
        return [reads[number]((row - starts[number],))[0] for row, number in found]

    return read


def _nullable(chunk: pa.Array, read: Read) -> Read:
    """``read``, with None where the chunk's validity bit is not set."""
    if not chunk.null_count:
        return read
    valid = _bits(chunk, 0)
    return lambda rows: [cell if bit else None for cell, bit in zip(read(rows), valid(rows), strict=True)]


def _strings(chunk: pa.Array) -> Read:
    offsets, data = _view(chunk, 1).cast("i")[chunk.offset :], _view(chunk, 2)
    return lambda rows: [data[offsets[row] : offsets[row + 1]].tobytes().decode() for row in rows]


def _numbers(chunk: pa.Array, code: Literal["q", "d"]) -> Read:
    values: memoryview[Any] = _view(chunk, 1).cast(code)[chunk.offset :]
    return lambda rows: [values[row] for row in rows]


def _bits(chunk: pa.Array, buffer: int) -> Read:
    bits, first = _view(chunk, buffer), chunk.offset
    return lambda rows: [bits[bit >> 3] >> (bit & 7) & 1 == 1 for bit in [row + first for row in rows]]


def _view(chunk: pa.Array, number: int) -> memoryview:
    """A buffer of the chunk; strings that are all empty may come without one."""
    buffer = chunk.buffers()[number]
    return memoryview(b"" if buffer is None else buffer)


_TYPES: dict[pa.DataType, Callable[[pa.Array], Read]] = {
    pa.string(): _strings,
    pa.int64(): lambda chunk: _numbers(chunk, "q"),
    pa.float64(): lambda chunk: _numbers(chunk, "d"),
    pa.bool_(): lambda chunk: _bits(chunk, 1),
}
