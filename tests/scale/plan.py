"""``python -m tests.scale plan``: the plan's simulation beside measured load, at one, two and three local replicas.

Calibrated on one replica alone: the spread of its times with one request under way, its mean by what a closed loop gets out
of it. Everything else is predicted, and printed beside what was measured, with the error.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from offline.plan.door import Shedding
from offline.plan.simulation import Fleet, simulate
from offline.plan.simulation import Load as Traffic
from offline.plan.times import Measured
from tests.bench.loads import Load, closed_loop, open_loop, poisson
from tests.live import Live
from tests.scale.balance import Balanced
from tests.scale.local import KINDS, Corpus, Kind, corpus_of, running

SHARES = (0.3, 0.5, 0.7, 0.9, 1.5)
_CONNECTIONS = 96
_SATURATED = 8
_SIMULATED = 15_000
_BOUND = 0.25
"""Of the median error of p99 below saturation: a plan is rounded up to whole machines anyway."""
_SHED_BOUND = 0.05
_BUSY = 0.9
"""Shares of the capacity from this on are where a service sheds: the worst of them is judged, not their median."""
"""Of the median difference of the shares that are shed."""


@dataclass(frozen=True)
class Seen:
    """One load on so many replicas: milliseconds and shares."""

    p50_ms: float
    p99_ms: float
    shed_share: float


@dataclass(frozen=True)
class Compared:
    """The same load measured and simulated, by turns: both are of one round."""

    kind: str
    replicas: int
    share: float
    per_second: tuple[float, ...]
    measured: tuple[Seen, ...]
    simulated: tuple[Seen, ...]

    def median(self, which: Literal["measured", "simulated"], figure: str) -> float:
        return statistics.median(getattr(each, figure) for each in getattr(self, which))

    def error(self, figure: str) -> float:
        """Of the simulated figure, as a share of the measured one; the median of the rounds. Not a number where nothing was
        answered in one of them.
        """
        pairs = zip(self.simulated, self.measured, strict=True)
        return statistics.median(getattr(ours, figure) / getattr(theirs, figure) - 1 for ours, theirs in pairs)


@dataclass(frozen=True)
class Calibration:
    """What is known of one replica.

    Attributes:
        capacity: answers a second of a closed loop.
        cpu_ms: of the server and of the client, for an answer.
    """

    times: Measured
    capacity: float
    cpu_ms: float

    def describe(self) -> str:
        times = self.times
        return (
            f"one replica takes {times.quantile_ms(0.5):.2f} ms at p50 and {times.quantile_ms(0.99):.2f} at p99 by itself, "
            f"answers {self.capacity:.0f} a second and {self.cpu_ms:.2f} ms of CPU each, the client's too"
        )

    def fleet(self, kind: Kind, replicas: int) -> Fleet:
        beside_ms = max(0.0, self.cpu_ms - self.times.mean_ms()) if kind.cores is not None else 0.0
        return Fleet(replicas, kind.workers, cores=kind.cores, beside_ms=beside_ms)

    def most(self, kind: Kind, replicas: int) -> float:
        """Requests a second that so many replicas can do, by the model."""
        alone = replicas * self.capacity
        if kind.cores is None:
            return alone
        return min(alone, kind.cores * 1000 / max(self.cpu_ms, self.times.mean_ms()))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, simulate, print; 1 where the simulation is further off than it may be."""
    given = _parser().parse_args(argv)
    found: list[Compared] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.kind or KINDS:
            found += check(KINDS[name], given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=1))
    met = [_goals(name, found) for name in dict.fromkeys(each.kind for each in found)]
    return 0 if all(met) else 1


def check(kind: Kind, given: argparse.Namespace, folder: Path) -> list[Compared]:
    """All loads on all numbers of replicas, each load once a round."""
    print(f"{kind.name}: {kind.about}; budget {kind.budget_ms:g} ms", flush=True)
    corpus, found = corpus_of(kind, folder, given.cache, given.data), []
    for count in given.replicas:
        with running(kind, corpus, count, folder) as replicas:
            found += _loads(kind, corpus, replicas, given)
    return found


def calibrate(kind: Kind, corpus: Corpus, replica: Live, seconds: float) -> Calibration:
    """One replica by itself: one request at a time, then as many as it takes to keep it busy."""
    with Balanced([replica.port], _SATURATED) as wire:
        closed_loop(wire, _SATURATED, corpus.in_no_hurry, seconds / 2)
        alone = closed_loop(wire, 1, corpus.in_no_hurry, seconds)
        before = _cpu_seconds(replica)
        busy = closed_loop(wire, _SATURATED, corpus.in_no_hurry, seconds)
        cpu_seconds = _cpu_seconds(replica) - before + busy.client_cpu_seconds
    answers, latencies = len(_answered(busy)), _answered(alone)
    if not answers or not latencies:
        raise RuntimeError("a replica that was asked one thing at a time answered nothing with 200")
    capacity = answers / busy.seconds
    return Calibration(Measured.of(latencies).with_mean(kind.workers * 1000 / capacity), capacity, cpu_seconds * 1e3 / answers)


def _answered(load: Load) -> list[float]:
    """Latencies of the answers 200."""
    return [outcome.latency_ms for outcome in load.outcomes if outcome.status == 200]


def _cpu_seconds(replica: Live) -> float:
    times = replica.process.cpu_times()
    return float(times.user + times.system)


def _loads(kind: Kind, corpus: Corpus, replicas: Sequence[Live], given: argparse.Namespace) -> list[Compared]:
    """Each round: what one replica does by itself, then every load on all of them, measured and simulated."""
    seen: dict[float, list[tuple[float, Seen, Seen]]] = {share: [] for share in SHARES}
    with Balanced([live.port for live in replicas], _CONNECTIONS * len(replicas)) as wire:
        for turn in range(given.rounds):
            known = calibrate(kind, corpus, replicas[0], given.seconds)
            print(f"  x{len(replicas)}, round {turn + 1}: {known.describe()}", flush=True)
            for share in SHARES:
                per_second = share * known.most(kind, len(replicas))
                plan = poisson(corpus.in_budget, per_second, given.seconds, seed=turn)
                measured = _seen(open_loop(wire, _CONNECTIONS * len(replicas), plan))
                seen[share].append((per_second, measured, _simulated(kind, known, len(replicas), per_second)))
    found = []
    for share, rounds in seen.items():
        per_second_of, measured_of, simulated_of = zip(*rounds, strict=True)
        found.append(Compared(kind.name, len(replicas), share, per_second_of, measured_of, simulated_of))
        print(_line(found[-1]), flush=True)
    return found


def _simulated(kind: Kind, known: Calibration, replicas: int, per_second: float) -> Seen:
    ran = simulate(known.fleet(kind, replicas), known.times, Traffic(per_second, _SIMULATED), Shedding(kind.budget_ms))
    return Seen(ran.quantile_ms(0.5), ran.quantile_ms(0.99), ran.shed_share)


def _seen(load: Load) -> Seen:
    answered = _answered(load)
    p50_ms, p99_ms = np.quantile(answered, [0.5, 0.99]) if answered else (math.nan, math.nan)
    return Seen(float(p50_ms), float(p99_ms), 1 - len(answered) / len(load.outcomes))


def _line(found: Compared) -> str:
    parts = [f"  {found.kind} x{found.replicas} {found.share:.0%} ({statistics.median(found.per_second):.0f}/s):"]
    for name, figure in (("p50", "p50_ms"), ("p99", "p99_ms")):
        error = found.error(figure)
        parts.append(
            f"{name} simulated {_span(found.simulated, figure)} measured {_span(found.measured, figure)} ms {error:+.0%};"
        )
    shares = [
        f"{word} {_span(seen, 'shed_share', 100)}"
        for word, seen in (("simulated", found.simulated), ("measured", found.measured))
    ]
    return " ".join([*parts, "shed", *shares, "%"])


def _span(seen: Sequence[Seen], figure: str, factor: float = 1.0) -> str:
    """The median of the rounds, the least and the greatest."""
    each = [factor * getattr(one, figure) for one in seen]
    return f"{statistics.median(each):.1f} [{min(each):.1f}, {max(each):.1f}]"


def _goals(kind: str, found: Sequence[Compared]) -> bool:
    """Latency where it is not yet cut off by the budget, and what is shed: everywhere, and where shedding is what matters."""
    ours = [each for each in found if each.kind == kind]
    errors = [abs(error) for each in ours if each.share < 1 and math.isfinite(error := each.error("p99_ms"))]
    apart = [abs(each.median("simulated", "shed_share") - each.median("measured", "shed_share")) for each in ours]
    error = statistics.median(errors) if errors else math.nan
    busy = [difference for each, difference in zip(ours, apart, strict=True) if each.share >= _BUSY]
    lines = [(f"plan_{kind}_p99_error", error, _BOUND), (f"plan_{kind}_shed_difference", statistics.median(apart), _SHED_BOUND)]
    if busy:
        lines.append((f"plan_{kind}_shed_difference_busy", max(busy), _SHED_BOUND))
    for name, figure, bound in lines:
        print(f"GOAL {name} {figure:.3f} <={bound} {'ok' if figure <= bound else 'short'}")
    return all(figure <= bound for _, figure, bound in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.scale plan", description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="one kind of replicas; both unless given")
    parser.add_argument("--replicas", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="a load lasts in a round")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tldr"), help="folder in BEIR layout, or none")
    parser.add_argument("--cache", type=Path, default=Path("work/bench"), help="where the bench keeps its snapshots")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
