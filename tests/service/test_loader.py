"""What a swap takes, step by step, is what passes here, in whatever process it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock

from service.apart import Apart, Enter
from service.gate import GateOptions
from service.generation import Generation, GenerationOptions, Step, Verify, open_generation
from service.inspection import Gatekeeper, Inspection
from service.loader import Loader
from service.recent import RecentQueries
from service.swap import Generations
from snapshot.layout import Layout
from snapshot.registry import Desire
from snapshot.verify import verify

LOADING = GenerationOptions(batching=False)


class Elsewhere(Apart):
    """A gate that passes everything, in so many seconds a step."""

    def __init__(self, clock: ManualClock, seconds: Mapping[Step, float]) -> None:
        super().__init__(GateOptions(), LOADING, None)
        self._clock = clock
        self._seconds = seconds

    def judge(self, layout: Layout, inspection: Inspection, enter: Enter) -> Verify:
        for step, seconds in self._seconds.items():
            enter(step)
            self._clock.advance_ms(seconds * 1000)
        return verify


def test_the_time_of_the_gates_own_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, generations, recent = ManualClock(), Generations(), RecentQueries(10, 1 << 20)
    generations.replace(open_generation(make_snapshot(tmp_path / "serving"), LOADING, lambda step: None))
    keeper = Gatekeeper(GateOptions(), generations.peer, recent)
    judging = Elsewhere(clock, {"verifying": 3.0, "opening": 0.5, "proving": 2.0, "warming": 1.0})
    loader = Loader(LOADING, generations, keeper, recent, apart=judging, clock=clock)

    def slowly(*given: object) -> Generation:
        clock.advance_ms(250)
        return open_generation(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("service.loader.open_generation", slowly)
    layout = make_snapshot(tmp_path / "new")
    inspection = loader.inspect(Desire(layout.root.name), lambda: None)
    new = loader.open(layout, lambda step: None, inspection)
    assert new.load_seconds == pytest.approx({"verifying": 3.0, "opening": 0.5, "proving": 2.0, "warming": 1.25})
    new.close()
    assert generations.close(10.0)
