"""The shadow: real snapshots, live queries that a test asks, and time that moves as they are worked on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_oracle, make_snapshot
from manual_clock import ManualClock
from serving import Hooked

from service.gate import Check, GateOptions
from service.generation import Generation, GenerationOptions, open_generation
from service.inspection import Gatekeeper
from service.loader import Loader
from service.recent import RecentQueries
from service.shadow import Shadow, ShadowOptions
from service.swap import Generations
from snapshot.errors import EngineUnavailableError, GateRefusedError
from snapshot.registry import Desire

QUERIES = [" ".join(text.split()[:2]) for text in make_oracle().texts]
OPTIONS = ShadowOptions(share=1.0, queries=50, seconds=60.0, cpu_share=1.0)


def load(folder: Path, seed: int = 0) -> Generation:
    layout = make_snapshot(folder, seed=seed, kind="hnsw")
    return open_generation(layout, GenerationOptions(batching=False), lambda step: None)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return load(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return load(tmp_path_factory.mktemp("other"), seed=7)


class Bench:
    """A shadow; users ask one query whenever it waits, and a search takes ``ours_ms`` or ``theirs_ms``."""

    def __init__(
        self, serving: Generation, options: ShadowOptions = OPTIONS, asking: Callable[[], str | None] | None = None
    ) -> None:
        self.clock, self.recent, self.counted = ManualClock(), RecentQueries(1000, 1 << 20), Counter[str]()
        self.cpu = 0.0
        self._queries: Iterator[str] = iter(QUERIES * 100)
        self._asking = asking or (lambda: next(self._queries))
        self.waited: list[float] = []
        self.chances = iter(lambda: 0.0, 1.0)
        self.shadow = Shadow(
            options,
            lambda: nullcontext(self.timed(serving, 10.0)),
            self.recent,
            lambda outcome: self.counted.update([outcome]),
            self.clock,
            lambda: self.cpu,
            self.wait,
            lambda: next(self.chances),
        )

    def wait(self, event: threading.Event, seconds: float) -> None:
        self.waited.append(seconds)
        query = self._asking()
        if query is not None:
            self.recent.note(query)
        self.clock.advance_ms(seconds * 1000)

    def timed(self, generation: Generation, ms: float) -> Generation:
        """The same generation, whose searches take so long, all of it work."""

        def hook(stage: str) -> None:
            if stage == "search":
                self.clock.advance_ms(ms)
                self.cpu += ms / 1000

        return replace(generation, engine=Hooked(generation.engine, hook))

    def run(self, new: Generation, pace: Callable[[], None] = lambda: None) -> dict[str, Check]:
        return {check.name: check for check in self.shadow.run(new, pace)}


def test_the_same_answers_as_fast_pass(serving: Generation) -> None:
    bench = Bench(serving)
    found = bench.run(bench.timed(serving, 10.0))
    assert {name: (check.value, check.passed) for name, check in found.items()} == {
        "shadow_errors": (0, True), "shadow_overlap": (1.0, True), "shadow_p50": (1.0, True),
    }  # fmt: skip
    assert bench.counted == {"compared": 50}
    assert "50 live queries" in found["shadow_overlap"].detail


def test_other_answers_are_refused_with_the_figure(serving: Generation, other: Generation) -> None:
    bench = Bench(serving)
    found = bench.run(bench.timed(other, 10.0))["shadow_overlap"]
    assert not found.passed
    assert found.forcible
    assert 0 < float(found.value or 0) < 0.2


def test_slower_answers_are_refused_with_the_figure(serving: Generation) -> None:
    bench = Bench(serving)
    found = bench.run(bench.timed(serving, 16.0))["shadow_p50"]
    assert (found.value, found.limit, found.passed) == (1.6, 1.5, False)
    assert "16.00 ms over 10.00 ms" in found.detail


def test_one_error_is_enough(serving: Generation) -> None:
    bench, asked = Bench(serving), Counter[str]()

    def fail_once(stage: str) -> None:
        asked.update([stage])
        if asked[stage] == 7:
            raise RuntimeError("inside the engine")

    found = bench.run(replace(serving, engine=Hooked(serving.engine, fail_once)))
    assert (found["shadow_errors"].value, found["shadow_errors"].passed) == (1, False)
    assert bench.counted == {"compared": 49, "failed": 1}


def test_where_all_fail_there_is_no_overlap_to_speak_of(serving: Generation) -> None:
    def fail(stage: str) -> None:
        raise RuntimeError("inside the engine")

    found = Bench(serving).run(replace(serving, engine=Hooked(serving.engine, fail)))
    assert list(found) == ["shadow_errors"]
    assert found["shadow_errors"].value == 50


def test_what_serves_and_cannot_be_asked_is_no_fault_of_the_candidate(serving: Generation) -> None:
    def unreachable(stage: str) -> None:
        raise EngineUnavailableError("its server does not answer")

    bench = Bench(replace(serving, engine=Hooked(serving.engine, unreachable)))
    found = bench.run(serving)
    assert all(check.passed and check.value is None for check in found.values())
    assert set(bench.counted) == {"dropped"}


def test_without_traffic_the_time_ends_it_and_nothing_is_claimed(serving: Generation) -> None:
    bench = Bench(serving, asking=lambda: None)
    found = bench.run(serving)
    assert bench.clock.now == pytest.approx(160.0, abs=0.2)
    assert all(check.passed and check.value is None for check in found.values())
    assert found["shadow_overlap"].detail == "not applicable: 0 live queries came, 20 are needed"


def test_it_keeps_to_its_share_of_the_processor(serving: Generation) -> None:
    bench = Bench(serving, replace(OPTIONS, cpu_share=0.1, queries=30))
    begun = bench.clock.now
    bench.run(bench.timed(serving, 10.0))
    assert bench.counted["compared"] == 30
    wall = bench.clock.now - begun
    assert bench.cpu == pytest.approx(0.6)
    assert bench.cpu / wall <= 0.1 * 1.05
    assert max(bench.waited) <= 0.1


def test_only_a_share_of_the_queries_is_chosen(serving: Generation) -> None:
    bench = Bench(serving, replace(OPTIONS, share=0.25, seconds=1e9, queries=20))
    bench.chances = iter([0.9, 0.5, 0.3, 0.1] * 1000)
    bench.run(serving)
    asked = len(bench.waited)
    assert bench.counted["compared"] == 20
    assert asked == 80


def test_what_comes_too_fast_is_dropped_the_oldest_first(serving: Generation) -> None:
    bench = Bench(serving)
    shadow, heard = bench.shadow, [str(number) for number in range(100)]
    for query in heard:
        shadow._hear(query)
    assert list(shadow._waiting) == heard[-64:]
    assert bench.counted == {"dropped": 36}


def test_it_gives_up_at_once_where_it_is_told_to(serving: Generation) -> None:
    class GaveUpError(Exception):
        pass

    def give_up() -> None:
        raise GaveUpError

    bench = Bench(serving)
    with pytest.raises(GaveUpError):
        bench.run(serving, give_up)
    bench.recent.note("afterwards")
    assert list(bench.shadow._waiting) == []


class Loading:
    """A loader with a shadow, over a registry in which one snapshot serves."""

    def __init__(self, tmp_path: Path, share: float, seed: int) -> None:
        self.generations, self.steps = Generations(), list[str]()
        self.generations.replace(load(tmp_path / "serving"))
        recent = RecentQueries(1000, 1 << 20)
        clock = ManualClock()

        def wait(event: threading.Event, seconds: float) -> None:
            clock.advance_ms(seconds * 1000)
            recent.note(QUERIES[int(clock.now * 10) % len(QUERIES)])

        shadow = Shadow(
            replace(OPTIONS, share=share, seconds=10.0),
            self.generations.peer, recent, clock=clock, cpu=lambda: 0.0, wait=wait, chance=lambda: 0.0,
        )  # fmt: skip
        keeper = Gatekeeper(GateOptions(), self.generations.peer, recent)
        self.layout = make_snapshot(tmp_path / "new", seed=seed, kind="hnsw")
        self.loader = Loader(GenerationOptions(batching=False), self.generations, keeper, recent, shadow=shadow, clock=clock)

    def open(self, **desire: Any) -> tuple[Generation, list[str]]:
        inspection = self.loader.inspect(Desire(self.layout.root.name, **desire), lambda: None)
        new = self.loader.open(self.layout, self.steps.append, inspection)
        return new, [check.name for check in inspection.report().checks if check.name.startswith("shadow")]


def test_a_candidate_is_shadowed_after_it_was_warmed(tmp_path: Path) -> None:
    loading = Loading(tmp_path, share=0.5, seed=0)
    new, checks = loading.open()
    assert new.load_seconds == dict.fromkeys(loading.steps, 0.0) | {"shadowing": pytest.approx(5.0)}
    assert loading.steps == ["verifying", "opening", "proving", "warming", "shadowing"]
    assert checks == ["shadow_errors", "shadow_overlap", "shadow_p50"]


def test_a_candidate_that_answers_otherwise_never_serves_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close = Generation.close
    monkeypatch.setattr(Generation, "close", lambda self: (closed.append(self.id), close(self)))
    loading = Loading(tmp_path, share=0.5, seed=7)
    with pytest.raises(GateRefusedError, match="shadow_overlap"):
        loading.open()
    assert closed == [loading.layout.root.name]


@pytest.mark.parametrize(("share", "desire"), [(0.0, {}), (0.5, {"action": "rollback"})])
def test_no_shadow_where_none_is_wanted_or_an_operator_goes_back(tmp_path: Path, share: float, desire: dict[str, Any]) -> None:
    _, checks = Loading(tmp_path, share, seed=7).open(**desire)
    assert checks == []


def test_force_overrides_the_shadow_too(tmp_path: Path) -> None:
    _, checks = Loading(tmp_path, share=0.5, seed=7).open(forced=True, why="a new model")
    assert checks == ["shadow_errors", "shadow_overlap", "shadow_p50"]
