"""How long one query takes in each query tower: in turns on one thread, so that a busy moment hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from offline.findings import Latency

_ROUNDS = 5
_COLD_RUNS = 4


@dataclass(frozen=True)
class Encoder:
    """A query tower in one step or two; ``tokenize`` is None where both are one."""

    encode: Callable[[Any], object]
    tokenize: Callable[[str], object] | None = None


def time_towers(
    encoders: Mapping[str, Encoder], texts: Sequence[str], clock: Callable[[], float] = time.thread_time
) -> tuple[Latency, ...]:
    """Tokenize and encode each text alone, in rounds; a text's times are their medians over the rounds.

    Each tower begins its turn with runs that are not counted: they fetch back what the tower before it drove out of the
    caches. ``clock`` gives seconds; the thread's own time leaves out what other processes took.
    """
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in encoders}
    with one_thread():
        for _ in range(_ROUNDS):
            for name, encoder in encoders.items():
                for text in texts[:_COLD_RUNS]:
                    _time(encoder, text, clock)
                taken[name].append([_time(encoder, text, clock) for text in texts])
    return tuple(_latency(name, encoders[name], np.median(rounds, axis=0) * 1000) for name, rounds in taken.items())


def _time(encoder: Encoder, text: str, clock: Callable[[], float]) -> tuple[float, float]:
    """The whole and its second step."""
    began = clock()
    tokens = text if encoder.tokenize is None else encoder.tokenize(text)
    tokenized = clock()
    encoder.encode(tokens)
    ended = clock()
    return ended - began, ended - tokenized


def _latency(name: str, encoder: Encoder, milliseconds: np.typing.NDArray[np.float64]) -> Latency:
    """From milliseconds[n, 2]."""
    whole, encode = milliseconds.T
    p50, p99 = np.percentile(whole, [50, 99])
    apart = None if encoder.tokenize is None else float(np.median(encode))
    return Latency(tower=name, p50_ms=float(p50), p99_ms=float(p99), encode_p50_ms=apart, queries=len(whole))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
