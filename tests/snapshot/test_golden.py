"""The golden set is read as it was written, and what lies about itself is refused without believing it."""

import io
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_oracle, make_snapshot

from snapshot.errors import CountMismatchError, GoldenMismatchError, SnapshotError
from snapshot.golden import read_golden
from snapshot.layout import Layout
from snapshot.manifest import read_manifest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_snapshot(tmp_path, rows=30)


def claims(shape: tuple[int, ...], kind: str) -> bytes:
    """A header of numpy's format, and eight bytes of data."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue() + bytes(8)


def test_it_is_what_was_written(layout: Layout) -> None:
    golden = read_golden(layout, read_manifest(layout.manifest))
    oracle = make_oracle(30)
    asked = [query.lower() for query in golden.queries]
    np.testing.assert_allclose(golden.vectors, oracle.encode(asked), atol=1e-6)
    np.testing.assert_array_equal(golden.rows, oracle.rows(asked, 5))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda at: at.golden_vectors.write_bytes(claims((10**9, 384), "<f4")), GoldenMismatchError),
        (lambda at: at.golden_rows.write_bytes(claims((10**9, 10), "<i8")), GoldenMismatchError),
        (lambda at: at.golden_rows.write_bytes(claims((2**62, 2**62), "<i8")), GoldenMismatchError),
        (lambda at: at.golden_rows.write_bytes(b""), GoldenMismatchError),
        (lambda at: at.golden_rows.write_bytes(b"PK\x03\x04 an archive"), GoldenMismatchError),
        (lambda at: np.save(at.golden_rows, np.load(at.golden_rows).astype(np.float64)), GoldenMismatchError),
        (lambda at: np.save(at.golden_rows, np.load(at.golden_rows) + 30), CountMismatchError),
        (lambda at: np.save(at.golden_rows, np.load(at.golden_rows) - 30), CountMismatchError),
        (lambda at: at.golden_queries.write_bytes(b"[" * 100_000), GoldenMismatchError),
        (lambda at: at.golden_queries.write_text("[1, 2]"), GoldenMismatchError),
        (lambda at: at.golden_queries.write_text('["one"]'), CountMismatchError),
        (lambda at: at.golden_queries.unlink(), GoldenMismatchError),
    ],
)
def test_what_lies_is_refused_and_costs_no_memory(
    layout: Layout, damage: Callable[[Layout], object], error: type[SnapshotError]
) -> None:
    manifest = read_manifest(layout.manifest)
    damage(layout)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error):
        read_golden(layout, manifest)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
