"""Selections against sets of rows, few and many, at totals that do not fill their last byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshot.selection import Selection


@st.composite
def masks(draw: st.DrawFn, total: int) -> np.ndarray:
    share = draw(st.sampled_from([0.0, 0.001, 0.02, 0.5, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 99))).random(total) < share


def assert_selects(found: Selection, mask: np.ndarray) -> None:
    rows = np.flatnonzero(mask)
    assert (found.total, found.count) == (len(mask), len(rows))
    assert found.rows().dtype == np.int64
    np.testing.assert_array_equal(found.rows(), rows)
    np.testing.assert_array_equal(found.bits(), np.packbits(mask, bitorder="little"))
    assert found.nbytes <= len(found.bits())


@given(st.integers(1, 2000), st.data())
def test_selections_combine_as_masks_do(total: int, data: st.DataObject) -> None:
    left, right = data.draw(masks(total)), data.draw(masks(total))
    one, other = Selection.of_mask(left), Selection.of_mask(right)
    assert_selects(one, left)
    assert_selects(one & other, left & right)
    assert_selects(one | other, left | right)
    assert_selects(~one, ~left)


def test_bits_beyond_the_last_row_are_cleared() -> None:
    assert_selects(Selection.of_bits(np.full(2, 255, np.uint8), 9), np.ones(9, np.bool_))


@pytest.mark.parametrize("total", [1, 8, 100_000])
def test_no_row_takes_no_memory(total: int) -> None:
    assert_selects(Selection.none(total), np.zeros(total, np.bool_))
    assert Selection.none(total).nbytes == 0


@given(st.integers(1, 2000), st.data())
def test_a_part_is_the_same_slice_of_the_mask(total: int, data: st.DataObject) -> None:
    mask = data.draw(masks(total))
    start = data.draw(st.integers(0, total - 1))
    rows = data.draw(st.integers(1, total - start))
    found, part = Selection.of_mask(mask).part(start, rows), mask[start : start + rows]
    assert (found.total, found.count) == (rows, part.sum())
    np.testing.assert_array_equal(found.rows(), np.flatnonzero(part))
    np.testing.assert_array_equal(found.bits(), np.packbits(part, bitorder="little"))
    whole = Selection.of_mask(mask)
    np.testing.assert_array_equal(whole.rows(), np.flatnonzero(mask))  # which is as it was
