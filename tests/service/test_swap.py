from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_snapshot import make_oracle, make_snapshot

from service.errors import DrainingError, NoGenerationError
from service.generation import Generation, GenerationOptions, open_generation
from service.golden import Proof
from service.memory import Freed
from service.swap import Generations, SwapState

DEADLINE_SECONDS = 10.0


class Part:
    """Encoder or engine that remembers being closed, and by which thread."""

    def __init__(self) -> None:
        self.closed_in: list[str] = []
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed_in.append(threading.current_thread().name)
        self.closed.set()


class Recorder:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def entered(self, state: SwapState) -> None:
        self.heard.append(("entered", str(state)))

    def replaced(self, new: Generation, old: str | None) -> None:
        self.heard.append(("replaced", new.id, old))

    def failed(self, snapshot: str | None, code: str) -> None:
        self.heard.append(("failed", snapshot, code))

    def closed(self, snapshot: str, freed: Freed) -> None:
        self.heard.append(("closed", snapshot))

    def returned(self, to: Generation, left: str) -> None:
        self.heard.append(("returned", to.id, left))


def fake(name: str) -> Any:
    """A generation whose parts do nothing."""
    manifest: Any = SimpleNamespace(id=name)
    encoder: Any = Part()
    nothing, proof, now = SimpleNamespace(), Proof(1, 1, 0.0, 1.0), datetime.now(UTC)
    return Generation(manifest, encoder, Part(), nothing, proof, nothing, nothing, "tower", now, {})


def test_nothing_serves_before_the_first():
    generations = Generations()
    assert generations.serving is None
    assert generations.current is None
    assert generations.state is SwapState.IDLE
    with pytest.raises(NoGenerationError), generations.lease():
        pass


def test_a_lease_pins_what_served_when_it_began():
    generations, old, new = Generations(), fake("old"), fake("new")
    generations.replace(old)
    with generations.lease() as leased:
        generations.replace(new)
        assert leased is old
        assert generations.serving == "new"
        with generations.lease() as later:
            assert later is new
        assert not old.engine.closed.is_set()
    assert old.engine.closed.wait(DEADLINE_SECONDS)
    assert not new.engine.closed.is_set()


def test_the_old_one_is_closed_after_its_last_lease_only_and_in_another_thread():
    generations, old = Generations(), fake("old")
    generations.replace(old)
    first, second = generations.lease(), generations.lease()
    first.__enter__()
    second.__enter__()
    generations.replace(fake("new"))
    first.__exit__(None, None, None)
    assert not old.engine.closed.is_set()
    second.__exit__(None, None, None)
    assert old.engine.closed.wait(DEADLINE_SECONDS)
    assert old.encoder.closed_in == old.engine.closed_in == ["close-old"]


def test_an_unused_old_one_is_closed_at_once():
    generations, old = Generations(), fake("old")
    generations.replace(old)
    generations.replace(fake("new"))
    assert old.engine.closed.wait(DEADLINE_SECONDS)


def test_a_lease_ends_with_an_error_too():
    generations, old = Generations(), fake("old")
    generations.replace(old)
    with pytest.raises(KeyError), generations.lease():
        raise KeyError
    generations.replace(fake("new"))
    assert old.engine.closed.wait(DEADLINE_SECONDS)


def test_observers_hear_of_everything_once():
    recorder = Recorder()
    generations = Generations(recorder)
    generations.enter(SwapState.VERIFYING)
    generations.replace(fake("a"))
    generations.enter(SwapState.SERVING)
    generations.replace(fake("b"))
    assert generations.close(DEADLINE_SECONDS)
    states = [heard[1] for heard in recorder.heard if heard[0] == "entered"]
    assert states == ["idle", "verifying", "serving", "draining"]
    assert [heard for heard in recorder.heard if heard[0] == "replaced"] == [("replaced", "a", None), ("replaced", "b", "a")]
    assert sorted(heard for heard in recorder.heard if heard[0] == "closed") == [("closed", "a"), ("closed", "b")]


def test_draining_still_serves_and_is_not_left_again():
    generations = Generations()
    generations.replace(fake("a"))
    generations.drain()
    with generations.lease() as leased:
        assert leased.id == "a"
    generations.enter(SwapState.SERVING)
    assert generations.state is SwapState.DRAINING


def test_closing_waits_for_leases_and_then_refuses():
    generations, last = Generations(), fake("a")
    generations.replace(last)
    inside, leave = threading.Event(), threading.Event()

    def use() -> None:
        with generations.lease():
            inside.set()
            leave.wait(DEADLINE_SECONDS)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(use)
        assert inside.wait(DEADLINE_SECONDS)
        assert not generations.close(timeout_seconds=0.01)
        assert not last.engine.closed.is_set()
        with pytest.raises(DrainingError), generations.lease():
            pass
        waiting = pool.submit(generations.close, DEADLINE_SECONDS)
        leave.set()
        assert waiting.result(DEADLINE_SECONDS)
    assert last.engine.closed.is_set()
    assert generations.serving is None


def test_what_comes_after_closing_is_closed_and_never_serves():
    generations, late = Generations(), fake("late")
    assert generations.close(DEADLINE_SECONDS)
    generations.replace(late)
    assert late.engine.closed.wait(DEADLINE_SECONDS)
    assert generations.serving is None


def test_a_part_that_cannot_be_closed_is_reported_and_not_waited_for(monkeypatch):
    reported: list[tuple[str, type[BaseException]]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append((args.thread.name, args.exc_type)))
    generations, stuck = Generations(), fake("stuck")
    stuck.engine.close = lambda: 1 / 0
    generations.replace(stuck)
    assert generations.close(DEADLINE_SECONDS)
    for thread in threading.enumerate():
        if thread.name == "close-stuck":
            thread.join(DEADLINE_SECONDS)
    assert reported == [("close-stuck", ZeroDivisionError)]


def test_closing_what_never_served():
    assert Generations().close(timeout_seconds=0)


def open_real(registry: Path, seed: int) -> Generation:
    layout = make_snapshot(registry, rows=60, kind="hnsw", seed=seed)
    return open_generation(layout, GenerationOptions(), lambda step: None)


def test_no_request_sees_half_a_swap(tmp_path):
    """Threads search while two snapshots of different towers and documents take turns: every answer is one snapshot's."""
    oracles = {seed: make_oracle(rows=60, seed=seed) for seed in (0, 1)}
    texts = {seed: set(oracle.texts) for seed, oracle in oracles.items()}
    generations = Generations()
    stop = threading.Event()

    def serve(turn: int) -> None:
        generations.replace(open_real(tmp_path / str(turn), seed=turn % 2))

    def request() -> int:
        asked = 0
        while not stop.is_set():
            with generations.lease() as leased:
                vectors = leased.encoder.encode(["apple bread chair"])
                hits = leased.engine.search(vectors, 3, 64)
                found = {fields["text"] for fields in leased.documents.fields(hits.rows[0])}
                seed = int(leased.manifest.space.fingerprint, 16)
                np.testing.assert_array_equal(hits.rows, oracles[seed].rows(["apple bread chair"], 3))
                assert found <= texts[seed]
            asked += 1
        return asked

    serve(0)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(request) for _ in range(4)]
        for turn in range(1, 7):
            serve(turn)
        stop.set()
        assert all(job.result(DEADLINE_SECONDS) > 0 for job in running)
    assert generations.close(DEADLINE_SECONDS)


def test_leases_taken_and_swaps_made_by_many_threads_close_each_generation_once():
    generations = Generations()
    made = [fake(str(number)) for number in range(200)]
    generations.replace(made[0])
    stop = time.monotonic() + DEADLINE_SECONDS

    def use() -> None:
        while generations.serving != "199" and time.monotonic() < stop:
            with generations.lease() as leased:
                assert not leased.engine.closed.is_set()

    with ThreadPoolExecutor(5) as pool:
        users = [pool.submit(use) for _ in range(4)]
        for generation in made[1:]:
            generations.replace(generation)
        for user in users:
            user.result(DEADLINE_SECONDS)
    assert generations.close(DEADLINE_SECONDS)
    assert all(len(generation.engine.closed_in) == 1 for generation in made)
