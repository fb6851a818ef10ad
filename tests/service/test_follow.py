"""What is wanted comes to serve, or says why not; retries, pokes, and a follower's thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from following import DEADLINE_SECONDS, OPTIONS, Bench
from make_snapshot import make_oracle, make_snapshot
from structlog.testing import capture_logs

from service.attempts import FollowOptions, Outcome
from service.follow import Follower
from service.gate import GateOptions
from service.generation import Generation, GenerationOptions
from service.golden import Proof
from service.inspection import Gatekeeper
from service.loader import Loader
from service.recent import RecentQueries
from service.spare import Spare
from service.swap import Generations, SwapState
from snapshot.registry import Registry


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
    assert f"python -m offline run RECIPE --registry {bench.registry.root}" in error.reason
    assert bench.refusals.heard == []


def test_a_registry_that_is_not_there_is_waited_for(tmp_path):
    bench = Bench(tmp_path / "later")
    with capture_logs() as lines:
        assert [bench.follower.converge() for _ in range(3)] == [Outcome.UNWANTED] * 3
    error = bench.follower.last_error
    assert error is not None
    assert error.reason.startswith(f"{tmp_path / 'later'}: no such folder; ")
    assert lines == [{"event": "nothing_desired", "log_level": "warning", "reason": error.reason}]
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
    assert bench.generations.state is SwapState.IDLE, "else the steps of b would go on from those of a"
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


def test_a_former_whose_proof_meets_the_unforeseen_is_opened_anew(bench, monkeypatch):
    def prove(generation: Generation) -> Proof:
        raise RuntimeError("of a library")

    monkeypatch.setattr(bench.generations, "_keep_former", True)
    monkeypatch.setattr(Generation, "prove", prove)
    for name in ("a", "b", "a"):
        bench.want(name)
        assert bench.follower.converge() is Outcome.REPLACED
    assert bench.opener.opened == ["a", "b", "a"]
    assert (bench.generations.serving, bench.follower.last_error) == ("a", None)
    assert bench.refusals.heard == [("a", "internal")]


def test_a_snapshot_in_place_of_its_registry_is_said_to_be_one(tmp_path):
    bench = Bench(make_snapshot(tmp_path).root)
    assert bench.follower.converge() is Outcome.UNWANTED
    assert bench.follower.last_error is not None
    assert bench.follower.last_error.reason.endswith(f"a snapshot, and no registry; name the folder that it is in: {tmp_path}")


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


def test_the_thread_outlives_the_unforeseen(running, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory")

    failed, served = threading.Event(), threading.Event()
    running.opener.at["warming"] = served.set
    monkeypatch.setattr(running.refusals, "failed", lambda *_: failed.set())
    with monkeypatch.context() as patched:
        patched.setattr(running.registry, "desired", fail)
        patched.setattr(running.trials, "over", fail)
        running.follower.poke()
        assert failed.wait(DEADLINE_SECONDS)
    running.want("a")
    running.follower.poke()
    assert served.wait(DEADLINE_SECONDS)


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
    bench.want("a")
    bench.follower.stop(timeout_seconds=0)
    assert bench.generations.serving is None


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


@pytest.mark.parametrize(("declined", "offered"), [((), "b"), (("b",), "a"), (("a", "b"), None)])
def test_a_snapshot_that_was_declined_is_not_offered_where_nothing_is_wanted(bench, declined, offered):
    for name in ("a", "b"):
        bench.want(name)
    (bench.registry.root / "CURRENT").unlink()
    for name in declined:
        assert bench.registry.record_outcome(name, "refused", "too slow")
    assert bench.follower.converge() is Outcome.UNWANTED
    error = bench.follower.last_error
    assert error is not None
    wanted = "history" if offered is None else f"activate {offered}"
    assert error.reason.endswith(f": python -m snapshot {wanted} --registry {bench.registry.root}")
