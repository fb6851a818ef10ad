"""Reading the golden set of a snapshot: probe queries, their vectors and their best rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from snapshot.errors import CountMismatchError, GoldenMismatchError
from snapshot.files import read_small
from snapshot.layout import Layout
from snapshot.manifest import Manifest

_MAX_QUERIES_BYTES = 256 << 20
_AGAIN = "distil, export and publish again, or activate another snapshot"
_QUERIES = TypeAdapter(list[str])


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Raw probe queries and their answers.

    Attributes:
        vectors: float32[q, dim], made by the torch tower.
        rows: int64[q, k], the best rows by exact search with those vectors.
    """

    queries: list[str]
    vectors: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]


def read_golden(layout: Layout, manifest: Manifest) -> GoldenSet:
    """Read the golden set of a snapshot whose files have been verified.

    Nothing is allocated for what a file only claims.

    Raises:
        GoldenMismatchError: a file is not in the format that the layout says.
        CountMismatchError: the files are not of the shape that the manifest says, or name rows that do not exist.
    """
    queries = _read_queries(layout.golden_queries)
    vectors = _read_array(layout.golden_vectors, np.dtype(np.float32))
    rows = _read_array(layout.golden_rows, np.dtype(np.int64))
    asked = manifest.golden.queries
    expected = [asked, (asked, manifest.space.dim), (asked, manifest.golden.k)]
    found = [len(queries), vectors.shape, rows.shape]
    if found != expected:
        raise CountMismatchError(
            f"{layout.golden}: queries, vectors and rows are {found}, the manifest says {expected}; {_AGAIN}"
        )
    if not 0 <= rows.min() <= rows.max() < manifest.documents.count:
        raise CountMismatchError(
            f"{layout.golden_rows}: rows {rows.min()} to {rows.max()}, there are {manifest.documents.count} documents; {_AGAIN}"
        )
    return GoldenSet(queries, vectors, rows)


def _read_queries(path: Path) -> list[str]:
    try:
        return _QUERIES.validate_json(read_small(path, _MAX_QUERIES_BYTES), strict=True)
    except (ValidationError, OSError) as error:
        raise GoldenMismatchError(f"{path.parent}: cannot be read ({path.name}: {str(error)[:200]}); {_AGAIN}") from error


def _read_array(path: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array of ``kind``; mapped first, which fails where the file is shorter than its header claims."""
    try:
        with np.errstate(over="raise"):  # of the product of the claimed lengths
            mapped = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, OverflowError, FloatingPointError) as error:
        raise GoldenMismatchError(f"{path.parent}: cannot be read ({path.name}: {error}); {_AGAIN}") from error
    if mapped.dtype != kind:
        raise GoldenMismatchError(f"{path.parent}: cannot be read ({path.name}: not an array of {kind}); {_AGAIN}")
    return np.array(mapped)
