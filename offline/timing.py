"""How long one query takes in each query tower: in turns on one thread, so that a busy moment hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from offline.findings import Latency

_ROUNDS = 5
_COLD_RUNS = 4
Encode = Callable[[str], object]


def time_towers(
    encoders: Mapping[str, Encode], texts: Sequence[str], clock: Callable[[], float] = time.thread_time
) -> tuple[Latency, ...]:
    """Tokenize and encode each text alone, in rounds; a text's time is its median over the rounds.

    Each tower begins its turn with runs that are not counted: they fetch back what the tower before it drove out of the
    caches. ``clock`` gives seconds; the thread's own time leaves out what other processes took.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in encoders}
    with one_thread():
        for _ in range(_ROUNDS):
            for name, encode in encoders.items():
                for text in texts[:_COLD_RUNS]:
                    encode(text)
                taken[name].append([_time(encode, text, clock) for text in texts])
    return tuple(_latency(name, np.median(rounds, axis=0) * 1000) for name, rounds in taken.items())


def _time(encode: Encode, text: str, clock: Callable[[], float]) -> float:
    began = clock()
    encode(text)
    return clock() - began


def _latency(name: str, milliseconds: np.typing.NDArray[np.float64]) -> Latency:
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Latency(tower=name, p50_ms=float(p50), p99_ms=float(p99), queries=len(milliseconds))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
