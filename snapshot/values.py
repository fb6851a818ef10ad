"""Arrow arrays made of bytes. pyarrow's own conversion of Python values looks for pandas first, and importing that where it is
installed takes a second, in the middle of the first request that has a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_NUMBERS: dict[pa.DataType, type[np.generic]] = {pa.int64(): np.int64, pa.float64(): np.float64}


def array_of(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """``values``, none of them missing, as an array of type string, int64, float64 or bool."""
    if kind == pa.string():
        encoded = [value.encode() for value in values]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    elif kind == pa.bool_():
        buffers = [None, pa.py_buffer(np.packbits(np.asarray(values, np.bool_), bitorder="little"))]
    else:
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values, _NUMBERS[kind]))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def scalar_of(value: Any, kind: pa.DataType) -> pa.Scalar:
    """One value; never a missing one."""
    return array_of([value], kind)[0]
