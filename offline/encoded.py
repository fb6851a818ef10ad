"""What ``encode`` writes and later stages read."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from offline.errors import StageError
from offline.ranking import Floats, Rows
from snapshot.manifest import Space

SHARDS = "shards"
SPACE = "space.json"
BLOCK_ROWS = 65_536
_MAPPED = 256


class Vectors:
    """float32[n, dim] in the ``*.npy`` files of a folder, in the order of their numbers; read where they lie.

    A corpus may have more files than a process may have open: of those that were read the latest stay mapped.

    Raises:
        StageError: there are none.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = _shards_in(folder)
        shapes = [_open(path).shape for path in self._paths]
        self._starts = [0, *accumulate(rows for rows, _ in shapes)]
        self.dim = int(shapes[0][1])
        self._mapped = lru_cache(_MAPPED)(self._opened)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """As that of an array."""
        return len(self), self.dim

    def take(self, rows: Rows) -> Floats:
        """A copy of the rows int64[m] asked for, float32[m, dim], in that order; what was read stays mapped for a while."""
        return self._gather(rows, self._mapped)

    def read(self, rows: Rows) -> Floats:
        """As ``take``, but nothing stays mapped: for rows that are read once."""
        return self._gather(rows, self._opened)

    def _gather(self, rows: Rows, shard: Callable[[int], Floats]) -> Floats:
        found = np.empty((len(rows), self.dim), np.float32)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = numbers == number
            found[places] = shard(number)[rows[places] - self._starts[number]]
        return found

    def _opened(self, number: int) -> Floats:
        return _open(self._paths[number])

    def blocks(self, begin: int = 0, end: int | None = None, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Floats]]:
        """The first row of each block from row ``begin`` to before ``end``, and its vectors; copies, at most ``rows`` at a time.

        No more is resident than a block: a file is mapped anew for each and let go.
        """
        end = len(self) if end is None else end
        for start in range(begin, end, rows):
            yield start, self._read(start, min(start + rows, end))

    def _read(self, begin: int, end: int) -> Floats:
        found = np.empty((end - begin, self.dim), np.float32)
        for number in range(bisect_right(self._starts, begin) - 1, bisect_left(self._starts, end)):
            start = self._starts[number]
            low, high = max(begin, start), min(end, self._starts[number + 1])
            found[low - begin : high - begin] = self._opened(number)[low - start : high - start]
        return found


def load_vectors(folder: Path, shards: str = SHARDS) -> Floats:
    """All document vectors, float32[rows, dim], L2-normalised, in the order of the rows; ``shards`` is where in ``folder``."""
    vectors = Vectors(folder / shards)
    [(_, everything)] = vectors.blocks(rows=len(vectors))
    return everything


def _shards_in(folder: Path) -> list[Path]:
    """In the order of their numbers, which may have more digits than the names of the first have; StageError without any."""
    paths = sorted(folder.glob("*.npy"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise StageError(f"{folder}: no vectors; run the stage encode first")
    return paths


def _open(path: Path) -> Floats:
    opened: Floats = np.load(path, mmap_mode="r")
    return opened


def load_space(folder: Path) -> Space:
    """The space of those vectors."""
    return Space.model_validate_json((folder / SPACE).read_bytes())
