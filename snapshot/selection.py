"""A set of rows, packed: what a filter becomes, and what a search engine is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:  # which selects
    from snapshot.filters import Filter

Bits = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

_SPARSE = 64
"""At most one row in so many: then their numbers, 8 bytes each, take no more than the bitmap, and need no unpacking."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Selection:
    """``count`` of ``total`` rows, immutable: a few as their numbers, more as a bitmap.

    Attributes:
        held: int64[count], ascending, or uint8[ceil(total / 8)], in which row i is bit i % 8 of byte i // 8 and the bits
            beyond ``total`` are zero.
        meaning: the filter that selects these rows, for engines elsewhere, which are told that instead; None where it is not
            known.
    """

    total: int
    count: int
    held: Bits | Rows
    meaning: Filter | None = None

    @classmethod
    def of_bits(cls, bits: Bits, total: int) -> Selection:
        """From a bitmap uint8[ceil(total / 8)], which is taken over: its bits beyond ``total`` are cleared."""
        if total % 8:
            bits[-1] &= (1 << total % 8) - 1
        count: int = pa.BooleanArray.from_buffers(pa.bool_(), total, [None, pa.py_buffer(bits)]).true_count
        return cls(total, count, _sparse_rows(bits) if count * _SPARSE <= total else bits)

    @classmethod
    def of_mask(cls, mask: npt.NDArray[np.bool_]) -> Selection:
        """From bool[total]."""
        return cls.of_bits(np.packbits(mask, bitorder="little"), len(mask))

    @classmethod
    def none(cls, total: int) -> Selection:
        """No row."""
        return cls(total, 0, np.empty(0, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.held.nbytes

    def bits(self) -> Bits:
        """uint8[ceil(total / 8)], as FAISS' IDSelectorBitmap reads it; not to be written to."""
        if self.held.dtype == np.uint8:
            return cast("Bits", self.held)
        mask = np.zeros(self.total, dtype=np.bool_)
        mask[self.held] = True
        return np.packbits(mask, bitorder="little")

    def rows(self) -> Rows:
        """int64[count], ascending; not to be written to."""
        if self.held.dtype == np.int64:
            return cast("Rows", self.held)
        return np.flatnonzero(np.unpackbits(self.bits(), bitorder="little").view(np.bool_))

    def part(self, start: int, rows: int) -> Selection:
        """Those of the ``rows`` rows from ``start`` on, which are numbered from 0 again."""
        if self.held.dtype == np.int64:
            first, last = np.searchsorted(self.held, (start, start + rows))
            return Selection(rows, int(last - first), self.held[first:last] - start)
        bits = self.bits()[start // 8 : -(-(start + rows) // 8)]
        if start % 8:
            bits = np.packbits(np.unpackbits(bits, bitorder="little")[start % 8 :][:rows], bitorder="little")
        return Selection.of_bits(bits.copy(), rows)

    def __and__(self, other: Selection) -> Selection:
        few, more = (other, self) if self.held.dtype == np.uint8 else (self, other)
        if few.held.dtype == np.uint8:
            return Selection.of_bits(few.bits() & more.bits(), self.total)
        rows = few.rows()
        if more.held.dtype == np.uint8:
            rows = rows[more.held[rows >> 3] >> (rows & 7) & 1 == 1]
        else:
            rows = np.intersect1d(rows, more.held, assume_unique=True)
        return Selection(self.total, len(rows), rows)

    def __or__(self, other: Selection) -> Selection:
        return Selection.of_bits(self.bits() | other.bits(), self.total)

    def __invert__(self) -> Selection:
        return Selection.of_bits(~self.bits(), self.total)


def _sparse_rows(bits: Bits) -> Rows:
    """The rows of a bitmap with few of them: most of its bytes are zero, and are not unpacked."""
    places = np.flatnonzero(bits != 0)
    found, bit = np.nonzero(np.unpackbits(bits[places, np.newaxis], axis=1, bitorder="little"))
    return places[found] * 8 + bit
