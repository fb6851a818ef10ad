"""What the work of a request is, to whoever runs it: a generator that stops where it may be joined with others or set aside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Vectors = npt.NDArray[np.float32]
Ids = Sequence[int]


class Graph(Protocol):
    """What encodes token ids; the queries of one call all have the same number of tokens, so nothing is padded."""

    def embed(self, ids: Sequence[Ids]) -> Vectors:
        """float32[n, dim] of n queries of the same length."""

    def rows(self, length: int) -> int:
        """Most queries of ``length`` tokens that are worth one call; 1 where company does not pay."""


@dataclass(frozen=True, slots=True)
class Encode:
    """Please encode one tokenized query; answered with float32[1, dim]."""

    graph: Graph
    ids: Ids


@dataclass(frozen=True, slots=True)
class Wait:
    """Please go on when ``join`` calls back, or at once where it returns False: what is waited for is there already."""

    join: Callable[[Callable[[], None]], bool]


@dataclass(frozen=True, slots=True)
class Pause:
    """This is a good moment to let others go first."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The vector is there already: what follows is work of its own, of no use to whoever looks for company at the graph."""


Step = Encode | Wait | Pause | Ready
Steps = Generator[Step, Vectors | None, T]
