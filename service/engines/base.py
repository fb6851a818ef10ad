"""What every search engine must do; the only thing that the rest of the service knows about one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from service.deadline import Deadline
from snapshot.selection import Selection

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

NO_ROW = -1
NO_SCORE = -np.inf


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of each query, best first; row -1 and score -inf where there are fewer than k.

    Attributes:
        scores: float32[n, k], inner products (cosines, since both sides are L2-normalised).
        rows: int64[n, k], rows of the documents.
        exact: every eligible row was compared with every query.
    """

    scores: Vectors
    rows: Rows
    exact: bool = False


class Engine(Protocol):
    """Nearest rows by inner product. Searching is safe from several threads at once; closing is not.

    A search returns k hits for a query whenever k rows are eligible, whatever the effort and the selection.
    """

    @property
    def dim(self) -> int:
        """Width of the vectors."""

    @property
    def count(self) -> int:
        """Number of rows."""

    def search(
        self, queries: Vectors, k: int, effort: int, selection: Selection | None = None, deadline: Deadline | None = None
    ) -> Hits:
        """Approximate search of float32[n, dim] at an effort of the manifest's table, over the selected rows.

        Whoever asks another machine waits until ``deadline`` at most.
        """

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None, deadline: Deadline | None = None) -> Hits:
        """The same, comparing with every eligible row."""

    def close(self) -> None:
        """Give the memory back; the engine is not used again. May take tens of milliseconds: never on an event loop."""


@runtime_checkable
class Shared(Protocol):
    """An engine whose rows are where others can write, too."""

    def check(self) -> None:
        """Ask whether it still has the rows that were sealed; EngineError, and no more searches, where it has not."""
