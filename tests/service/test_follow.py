from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_snapshot import make_oracle, make_snapshot

from service.attempts import FollowOptions, Outcome
from service.follow import Follower
from service.gate import GateOptions, Record
from service.generation import Generation, GenerationOptions, Step
from service.golden import Proof
from service.inspection import Gatekeeper, Inspection
from service.loader import Loader
from service.memory import Freed
from service.recent import RecentQueries
from service.spare import Spare
from service.swap import Generations, SwapState
from service.trial import Trials
from snapshot.errors import HashMismatchError
from snapshot.layout import Layout
from snapshot.registry import Desire, Registry

DEADLINE_SECONDS = 10.0
OPTIONS = FollowOptions(poll_seconds=60.0, backoff_seconds=1.0, backoff_max_seconds=8.0)


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Refusals:
    """A SwapObserver that remembers what was refused."""

    def __init__(self) -> None:
        self.heard: list[tuple[str | None, str]] = []

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None:
        self.heard.append((snapshot, code))

    def closed(self, snapshot: str, freed: Freed) -> None: ...

    def returned(self, to: Generation, left: str) -> None: ...


class Opener:
    """Opens generations that do nothing; runs ``at[step]`` as it enters a step."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.at: dict[Step, Callable[[], None]] = {}

    def inspect(self, desire: Desire, pace: Callable[[], None]) -> Inspection:
        return Inspection(Record(desire.snapshot, desire.forced, desire.why, lambda: 0.0), GateOptions(), pace=pace)

    def open(self, layout: Layout, on_state: Callable[[Step], None], inspection: Inspection) -> Generation:
        name = layout.root.name
        self.opened.append(name)
        for step in ("verifying", "opening", "proving", "warming"):
            on_state(step)
            self.at.get(step, lambda: None)()
        manifest: Any = SimpleNamespace(id=name)
        part: Any = SimpleNamespace(close=lambda: self.closed.append(name))
        nothing: Any = SimpleNamespace(close=lambda: None)
        return Generation(
            manifest, part, nothing, SimpleNamespace(), Proof(1, 1, 0.0, 1.0), nothing, nothing, "tower", datetime.now(UTC), {}
        )


class Bench:
    """A follower on a registry of snapshots that exist by name, with everything about it at hand."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root)
        self.clock, self.opener, self.refusals, self.generations = Clock(), Opener(), Refusals(), Generations()
        self.trials = Trials(self.clock)
        self.follower = Follower(
            self.registry, self.generations, self.opener, OPTIONS, self.refusals, self.clock, trials=self.trials
        )

    def want(self, name: str) -> None:
        """Make CURRENT say ``name``, and a snapshot of that name exist if it can be one."""
        if "/" not in name:
            folder = self.registry.root / name
            folder.mkdir(exist_ok=True)
            (folder / "manifest.json").touch()
        (self.registry.root / "CURRENT").write_text(f"{name}\n")

    def fail(self) -> None:
        raise HashMismatchError("index.faiss: not what was sealed")


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_nothing_wanted_says_what_to_do(bench):
    assert bench.follower.converge() is Outcome.UNWANTED
    assert bench.generations.state is SwapState.IDLE
    assert bench.follower.desired is None
    error = bench.follower.last_error
    assert error is not None
    assert error.code == "nothing_published"
    assert "python -m offline run RECIPE" in error.reason
    assert bench.refusals.heard == []


def test_a_registry_that_is_not_there_is_waited_for(tmp_path):
    bench = Bench(tmp_path / "later")
    assert bench.follower.converge() is Outcome.UNWANTED
    bench.registry.root.mkdir()
    bench.want("a")
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.follower.last_error is None


def test_what_is_wanted_comes_to_serve_and_is_left_alone(bench):
    bench.want("a")
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.follower.desired == bench.generations.serving == "a"
    assert bench.generations.state is SwapState.SERVING
    bench.follower.poke()
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.opener.opened == ["a"]


def test_a_start_does_not_rest_for_requests_that_nobody_sends_and_a_swap_does(bench):
    asked = []

    class Watched(Spare):
        def share(self) -> float:
            asked.append(bench.generations.serving)
            return 1.0

    bench.follower = Follower(bench.registry, bench.generations, bench.opener, OPTIONS, clock=bench.clock, spare=Watched())
    inspect = bench.opener.inspect

    def inspect_and_work(desire, pace):
        pace()
        return inspect(desire, pace)

    bench.opener.inspect = inspect_and_work
    for name in ("a", "b"):
        bench.want(name)
        assert bench.follower.converge() is Outcome.REPLACED
    assert set(asked) == {"a"}


def test_going_back_is_wanting_the_one_before(bench):
    for name in ("a", "b", "a"):
        bench.want(name)
        assert bench.follower.converge() is Outcome.REPLACED
    assert bench.generations.serving == "a"


def test_a_refused_snapshot_leaves_the_old_one_serving_and_says_why(bench):
    bench.want("a")
    bench.follower.converge()
    bench.opener.at["verifying"] = bench.fail
    bench.want("b")
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.generations.serving == "a"
    assert bench.generations.state is SwapState.FAILED
    error = bench.follower.last_error
    assert error is not None
    assert (error.snapshot, error.code, error.attempts) == ("b", "hash_mismatch", 1)
    assert error.reason == "index.faiss: not what was sealed"
    assert bench.refusals.heard == [("b", "hash_mismatch")]


def test_retries_wait_twice_as_long_each_time_up_to_the_cap(bench):
    bench.opener.at["verifying"] = bench.fail
    bench.want("a")
    for wait in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert bench.follower.converge() is Outcome.FAILED
        bench.clock.now += wait - 0.1
        assert bench.follower.converge() is Outcome.BACKING_OFF
        bench.clock.now += 0.2
    assert len(bench.opener.opened) == len(bench.refusals.heard) == 5


def test_waits_double_up_to_the_cap():
    assert [OPTIONS.wait_seconds(attempts) for attempts in (1, 2, 3, 4, 5, 10_000)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_retry_that_succeeds_forgets_the_failure(bench):
    bench.opener.at["proving"] = bench.fail
    bench.want("a")
    assert bench.follower.converge() is Outcome.FAILED
    bench.opener.at.clear()
    assert bench.follower.converge() is Outcome.BACKING_OFF
    bench.clock.now += 1.0
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.follower.last_error is None
    assert bench.generations.state is SwapState.SERVING


def test_another_desire_is_tried_at_once(bench):
    bench.opener.at["verifying"] = bench.fail
    bench.want("a")
    bench.follower.converge()
    bench.opener.at.clear()
    bench.want("b")
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.generations.serving == "b"


def test_wanting_again_what_serves_ends_the_failure(bench):
    bench.want("a")
    bench.follower.converge()
    bench.opener.at["verifying"] = bench.fail
    bench.want("b")
    bench.follower.converge()
    bench.want("a")
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.follower.last_error is None
    assert bench.generations.state is SwapState.SERVING


def test_a_poke_tries_at_once_even_if_it_came_while_failing(bench):
    bench.opener.at["verifying"] = bench.fail
    bench.want("a")
    bench.follower.converge()
    assert bench.follower.converge() is Outcome.BACKING_OFF
    bench.follower.poke()
    bench.opener.at["verifying"] = lambda: (bench.follower.poke(), bench.fail())
    assert bench.follower.converge() is Outcome.FAILED
    bench.opener.at.clear()
    assert bench.follower.converge() is Outcome.REPLACED


@pytest.mark.parametrize("step", ["verifying", "opening", "proving", "warming"])
def test_a_newer_desire_supersedes_at_every_step(bench, step):
    bench.want("a")
    bench.opener.at[step] = lambda: (bench.want("b"), bench.opener.at.clear())
    assert bench.follower.converge() is Outcome.SUPERSEDED
    assert bench.generations.serving is None
    assert bench.refusals.heard == []
    assert bench.opener.closed == (["a"] if step == "warming" else [])
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.generations.serving == "b"


def test_what_was_opened_is_closed_where_the_desire_cannot_be_read(bench):
    bench.want("a")
    bench.opener.at["warming"] = lambda: (bench.registry.root / "CURRENT").write_bytes(b"\xff\xfe\x00")
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.generations.serving is None
    assert bench.opener.closed == ["a"]


def test_taking_the_desire_back_while_opening_keeps_what_serves(bench):
    bench.want("a")
    bench.follower.converge()
    bench.want("b")
    bench.opener.at["proving"] = (bench.registry.root / "CURRENT").unlink
    assert bench.follower.converge() is Outcome.SUPERSEDED
    assert bench.follower.converge() is Outcome.UNWANTED
    assert bench.generations.serving == "a"
    assert bench.generations.state is SwapState.SERVING


@pytest.mark.parametrize("content", ["../../etc", "/etc/passwd", "a b", "unknown", "x" * 5000])
def test_a_bad_current_is_a_reason_and_not_a_crash(bench, content):
    bench.want("a")
    bench.follower.converge()
    (bench.registry.root / "CURRENT").write_text(content)
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.generations.serving == "a"
    assert bench.follower.last_error is not None
    assert bench.follower.last_error.code == "snapshot_unknown"
    assert bench.opener.opened == ["a"]


def test_a_current_that_cannot_be_read_backs_off_too(bench):
    (bench.registry.root / "CURRENT").write_bytes(b"\xff\xfe\x00")
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.follower.converge() is Outcome.BACKING_OFF
    assert bench.follower.last_error is not None
    assert (bench.follower.last_error.snapshot, bench.follower.last_error.code) == (None, "registry_error")


def tried(bench, name="new", seconds=60.0):
    """``name`` is served ahead of ``old``, which the registry wants."""
    bench.want(name)
    bench.want("old")
    assert bench.follower.converge() is Outcome.REPLACED
    bench.trials.begin(name, "old", "a wave", "ann", seconds)
    return bench.follower.converge()


def test_what_is_tried_here_serves_and_following_does_not_undo_it(bench):
    assert tried(bench) is Outcome.REPLACED
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert (bench.generations.serving, bench.follower.desired, bench.registry.current()) == ("new", "new", "old")


def test_ending_a_trial_brings_back_what_the_registry_wants(bench):
    tried(bench)
    bench.trials.end()
    assert bench.follower.converge() is Outcome.REPLACED
    assert (bench.generations.serving, bench.follower.desired) == ("old", "old")


def test_a_trial_that_nobody_ends_is_over_after_its_time(bench):
    tried(bench, seconds=60)
    bench.clock.now += 59
    assert bench.follower.converge() is Outcome.UNCHANGED
    bench.clock.now += 1
    bench.follower.converge()
    assert bench.generations.serving == "old"


def test_wanting_what_is_tried_loads_nothing_again_and_ends_the_trial(bench):
    tried(bench)
    bench.want("new")
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.opener.opened == ["old", "new"]
    assert bench.trials.running is None
    bench.want("old")
    bench.follower.converge()
    assert bench.generations.serving == "old"


def test_wanting_another_one_has_the_last_word_over_a_trial(bench):
    tried(bench)
    bench.want("third")
    bench.follower.converge()
    assert bench.generations.serving == "third"


def test_a_trial_that_is_refused_leaves_the_old_one_and_no_trace_once_it_is_ended(bench):
    bench.opener.at["proving"] = lambda: bench.fail() if bench.opener.opened[-1] == "new" else None
    assert tried(bench) is Outcome.FAILED
    assert (bench.generations.serving, bench.follower.last_error.snapshot) == ("old", "new")
    bench.trials.end()
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.follower.last_error is None


def test_ending_a_trial_gives_up_what_is_being_opened_for_it(bench):
    bench.opener.at["opening"] = bench.trials.end
    bench.opener.at["proving"] = lambda: None
    assert tried(bench) is Outcome.SUPERSEDED
    assert bench.generations.serving == "old"


def test_a_process_that_starts_anew_knows_of_no_trial(bench):
    tried(bench)
    again = Follower(bench.registry, Generations(), bench.opener, OPTIONS, bench.refusals, bench.clock)
    again.converge()
    assert again.desired == "old"


def test_even_an_unforeseen_error_is_a_reason(bench):
    def fail() -> None:
        raise OSError(28, "No space left on device")

    bench.opener.at["opening"] = fail
    bench.want("a")
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.refusals.heard == [("a", "internal")]
    assert bench.follower.last_error is not None
    assert bench.follower.last_error.reason == "OSError: [Errno 28] No space left on device"


@pytest.fixture
def running(bench) -> Iterator[Bench]:
    bench.follower.start()
    yield bench
    bench.follower.stop(DEADLINE_SECONDS)


def test_the_thread_follows_when_poked(running):
    served = threading.Event()
    running.opener.at["warming"] = served.set
    for name in ("a", "b"):
        served.clear()
        running.want(name)
        running.follower.poke()
        assert served.wait(DEADLINE_SECONDS)
    running.follower.stop(DEADLINE_SECONDS)
    assert running.opener.opened == ["a", "b"]


def test_the_thread_polls(bench):
    served = threading.Event()
    bench.opener.at["warming"] = served.set
    options = FollowOptions(poll_seconds=0.01)
    follower = Follower(bench.registry, bench.generations, bench.opener, options)
    follower.start()
    bench.want("a")
    assert served.wait(DEADLINE_SECONDS)
    follower.stop(DEADLINE_SECONDS)


def test_stopping_gives_up_what_is_being_opened(running):
    opening, leave = threading.Event(), threading.Event()
    running.opener.at["opening"] = lambda: (opening.set(), leave.wait(DEADLINE_SECONDS))
    running.want("a")
    running.follower.poke()
    assert opening.wait(DEADLINE_SECONDS)
    running.follower.stop(timeout_seconds=0)
    leave.set()
    running.follower.stop(DEADLINE_SECONDS)
    assert running.generations.serving is None


def test_a_follower_that_never_ran_can_be_stopped(bench):
    bench.follower.stop(timeout_seconds=0)


def real_loader(generations: Generations) -> Loader:
    recent = RecentQueries(100, 1 << 20)
    return Loader(GenerationOptions(), generations, Gatekeeper(GateOptions(), generations.peer, recent), recent)


def test_real_snapshots_activate_refuse_and_roll_back(tmp_path):
    registry, generations = Registry(tmp_path), Generations()
    names = [make_snapshot(tmp_path, rows=60, seed=seed).root.name for seed in (0, 1)]

    def answers_as(seed: int) -> None:
        with generations.lease() as leased:
            vectors = leased.encoder.encode(["lamp mirror"])
            oracle = make_oracle(rows=60, seed=seed)
            np.testing.assert_array_equal(leased.engine.search(vectors, 5, 0).rows, oracle.rows(["lamp mirror"], 5))

    follower = Follower(registry, generations, real_loader(generations), FollowOptions(backoff_seconds=0.0))
    for seed in (0, 1):
        registry.activate(names[seed], why="test")
        assert follower.converge() is Outcome.REPLACED
        answers_as(seed)
    shutil.copytree(tmp_path / names[0], tmp_path / "damaged")
    registry.activate("damaged", why="test")
    assert follower.converge() is Outcome.FAILED
    assert follower.last_error is not None
    assert follower.last_error.code == "manifest_invalid"
    answers_as(1)
    registry.activate(names[0], why="test")
    assert follower.converge() is Outcome.REPLACED
    answers_as(0)
    assert generations.close(DEADLINE_SECONDS)
