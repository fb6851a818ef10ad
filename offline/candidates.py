"""Which graph is served: fp32 itself, or the fastest of what can be made of it that passes the gates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx

from offline.config import ExportConfig
from offline.errors import ParityError
from offline.exported import Precision, Trial
from offline.graph import Graph
from offline.quantize import Range, int8_per_token, static_int8

_ROUNDS = 9
_COLD_RUNS = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to make a cheaper graph of the fp32 one, given the ranges of its activations."""

    name: str
    precision: Precision
    make: Callable[[onnx.ModelProto, Mapping[str, Range]], onnx.ModelProto]


CANDIDATES = (
    Candidate("int8-static", "int8", static_int8),
    Candidate("int8-per-token", "int8", int8_per_token),
)


def measure(graphs: Mapping[str, Graph], texts: Sequence[str], clock: Callable[[], float] = time.thread_time) -> dict[str, float]:
    """Milliseconds that each graph takes for a text of its own, on one thread: the mean over the texts of medians.

    The graphs take turns, so that a busy moment hits all, and each begins its turn with runs that are not counted: they
    fetch back the weights that the graph before it drove out of the caches. ``clock`` gives seconds; the thread's own time
    leaves out what other processes took.
    """
    feeds = {name: [graph.feed([text]) for text in texts] for name, graph in graphs.items()}
    taken: dict[str, list[list[float]]] = {name: [] for name in graphs}
    for _ in range(_ROUNDS):
        for name, graph in graphs.items():
            for feed in feeds[name][:_COLD_RUNS]:
                graph.run(feed)
            marks = [clock()]
            for feed in feeds[name]:
                graph.run(feed)
                marks.append(clock())
            taken[name].append([after - before for before, after in pairwise(marks)])
    return {name: float(np.median(rounds, axis=0).mean()) * 1000 for name, rounds in taken.items()}


def choose(baseline: Trial, others: Sequence[Trial], config: ExportConfig) -> tuple[Trial, str]:
    """What is served, and why.

    ``fp32`` takes the baseline; ``int8`` the fastest of the others that passes its gates; ``auto`` does so if that is
    ``min_int8_speedup`` times as fast as the baseline.

    Raises:
        ParityError: int8 is demanded and none passes its gates.
    """
    if config.precision == "fp32":
        return baseline, "fp32: the recipe asks for it"
    failed = "; ".join(f"{trial.name}: {trial.failures}" for trial in others if trial.failures)
    passing = [trial for trial in others if not trial.failures]
    if not passing:
        if config.precision == "int8":
            raise ParityError(f"export.precision is int8, which fails ({failed}); set it to auto or fp32, or loosen the bound")
        return baseline, f"fp32, since no int8 passes ({failed})"
    best = max(passing, key=lambda trial: trial.speedup)
    speed = f"{best.name}, the fastest that passes its gates, is {best.speedup:.2f} times as fast as fp32 on one thread"
    if config.precision == "auto" and best.speedup < config.min_int8_speedup:
        return baseline, f"fp32, since {speed}, and export.min_int8_speedup is {config.min_int8_speedup:g}"
    gates = "; ".join(gate.detail for gate in best.gates)
    return best, f"{speed}; {gates}" + (f" (refused: {failed})" if failed else "")
