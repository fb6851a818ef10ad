"""A start goes on where the process before it ended: what it undid stays undone, and what served before stands in."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from following import DEADLINE_SECONDS, OPTIONS, Bench
from make_snapshot import make_snapshot

from service.attempts import Outcome
from service.follow import Follower
from service.gate import GateOptions
from service.generation import GenerationOptions
from service.guard import Breach
from service.inspection import Gatekeeper
from service.loader import Loader
from service.recent import RecentQueries
from service.swap import Generations, SwapState
from snapshot.history import make_event
from snapshot.keys import generate
from snapshot.registry import Registry
from snapshot.signing import Trust, sign
from snapshot.verify import verify


class Restarting(Bench):
    """A Bench whose history knows who wanted what, and whose process can end."""

    def activate(self, name: str, *, forced: bool = False) -> None:
        why = f"after {len(self.registry.history())} lines"  # history tells times apart by the second
        with self.registry.locked():
            self.registry.record(make_event("activate", name, "ann", why, previous=self.registry.found(), forced=forced))
        self.want(name)

    def serve(self, *names: str) -> None:
        for name in names:
            self.activate(name)
            assert self.follower.converge() is Outcome.REPLACED

    def undo(self) -> None:
        """The guard finds a reason."""
        self.follower._guard.look = lambda: Breach("watch", "errors 50%")  # type: ignore[method-assign]
        assert self.follower.converge() is Outcome.ROLLED_BACK

    def restart(self) -> Outcome:
        self.generations = Generations()
        self.opener.opened.clear()
        self.refusals.heard.clear()
        self.follower = Follower(
            self.registry, self.generations, self.opener, OPTIONS, self.refusals, self.clock, trials=self.trials
        )
        return self.follower.converge()

    def refuse(self, *names: str) -> None:
        self.opener.at["proving"] = lambda: self.fail() if self.opener.opened[-1] in names else None

    @property
    def shown(self) -> tuple[str | None, str | None, SwapState, str | None]:
        error = self.follower.last_error
        generations = self.generations
        return self.follower.desired, generations.serving, generations.state, None if error is None else error.code


@pytest.fixture
def bench(tmp_path) -> Restarting:
    return Restarting(tmp_path)


def outcomes(bench: Restarting) -> list[tuple[str, str | None]]:
    return [(event.snapshot, event.outcome) for event in bench.registry.history() if event.action == "outcome"]


def test_what_was_rolled_back_is_declined_after_a_restart_too(bench):
    bench.generations = Generations(keep_former=True)
    bench.follower = Follower(bench.registry, bench.generations, bench.opener, OPTIONS, bench.refusals, bench.clock)
    bench.serve("a", "b")
    bench.undo()
    for _ in range(2):
        assert bench.restart() is Outcome.DECLINED
        assert bench.shown == ("b", "a", SwapState.FAILED, "rolled_back")
        assert "errors 50%" in bench.follower.last_error.reason
        assert bench.refusals.heard == [("b", "rolled_back")]
        bench.clock.now += 1000
        assert bench.follower.converge() is Outcome.DECLINED
        assert bench.opener.opened == ["a"]
    assert [outcome for name, outcome in outcomes(bench) if name == "b"] == ["served", "rolled_back"]
    bench.activate("b")
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.shown == ("b", "b", SwapState.SERVING, None)


def test_what_was_rolled_back_says_so_again_after_a_while_in_which_the_registry_could_not_be_read(bench):
    bench.generations = Generations(keep_former=True)
    bench.follower = Follower(bench.registry, bench.generations, bench.opener, OPTIONS, bench.refusals, bench.clock)
    bench.serve("a", "b")
    bench.undo()
    bench.follower._guard.look = lambda: None  # type: ignore[method-assign]
    (bench.registry.root / "CURRENT").write_bytes(b"\xff")
    assert bench.follower.converge() is Outcome.FAILED
    bench.want("b")
    assert bench.follower.converge() is Outcome.DECLINED
    assert bench.shown == ("b", "a", SwapState.FAILED, "rolled_back")


def test_what_was_rolled_back_is_not_served_where_nothing_else_can_be(bench):
    bench.generations = Generations(keep_former=True)
    bench.follower = Follower(bench.registry, bench.generations, bench.opener, OPTIONS, bench.refusals, bench.clock)
    bench.serve("a", "b")
    bench.undo()
    shutil.rmtree(bench.registry.root / "a")
    assert bench.restart() is Outcome.DECLINED
    assert bench.shown == ("b", None, SwapState.FAILED, "rolled_back")
    bench.want("a")
    bench.want("b")
    assert bench.follower.converge() is Outcome.DECLINED
    assert bench.generations.serving is None, "its wait is not over"
    bench.follower.poke()
    assert bench.follower.converge() is Outcome.DECLINED
    assert bench.generations.serving == "a"


def test_a_start_on_what_is_refused_serves_what_served_before_and_tries_it_again(bench):
    bench.serve("a")
    bench.activate("b")
    bench.refuse("b")
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.restart() is Outcome.FAILED
    assert bench.opener.opened == ["b", "a"]
    assert bench.shown == ("b", "a", SwapState.FAILED, "hash_mismatch")
    assert bench.refusals.heard == [("b", "hash_mismatch")]
    assert bench.follower.converge() is Outcome.BACKING_OFF
    bench.clock.now += 1
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.follower.last_error.attempts == 2
    assert bench.opener.opened == ["b", "a", "b"], "what stands in is left alone"
    bench.opener.at.clear()
    bench.clock.now += 2
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.shown == ("b", "b", SwapState.SERVING, None)


def test_wanting_what_stands_in_ends_the_failure(bench):
    bench.serve("a")
    bench.activate("b")
    bench.refuse("b")
    bench.restart()
    bench.activate("a")
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.shown == ("a", "a", SwapState.SERVING, None)


def test_a_former_that_is_refused_yields_to_the_one_before_it(bench):
    bench.serve("a", "b")
    bench.activate("c")
    bench.refuse("b", "c")
    assert bench.restart() is Outcome.FAILED
    assert bench.opener.opened == ["c", "b", "a"]
    assert bench.generations.serving == "a"
    assert [report.snapshot for report in bench.follower.gate_reports if report.code] == ["c", "b"]


def test_a_former_that_is_refused_in_its_first_step_lends_it_to_nobody(bench):
    bench.serve("a", "b")
    bench.activate("c")
    before: list[SwapState] = []
    enter = bench.opener.at
    enter["verifying"] = lambda: bench.fail() if bench.opener.opened[-1] in ("b", "c") else None
    inspect = bench.opener.inspect
    bench.opener.inspect = lambda *asked: (before.append(bench.generations.state), inspect(*asked))[1]
    assert bench.restart() is Outcome.FAILED
    assert bench.generations.serving == "a"
    assert before == [SwapState.IDLE, SwapState.FAILED, SwapState.FAILED]


def test_what_never_served_does_not_stand_in(bench):
    bench.activate("a")
    bench.activate("b")
    bench.refuse("b")
    assert bench.restart() is Outcome.FAILED
    assert bench.shown == ("b", None, SwapState.FAILED, "hash_mismatch")


def test_what_stands_in_is_given_up_when_something_else_is_wanted(bench):
    bench.serve("a")
    bench.activate("b")
    bench.refuse("b")
    bench.opener.at["opening"] = lambda: bench.activate("c") if bench.opener.opened == ["b", "a"] else None
    assert bench.restart() is Outcome.SUPERSEDED
    assert (bench.generations.serving, bench.generations.state) == (None, SwapState.IDLE)
    assert bench.follower.converge() is Outcome.REPLACED
    assert bench.generations.serving == "c"


def test_a_former_is_opened_by_force_if_it_was_wanted_so(bench):
    bench.activate("a", forced=True)
    bench.follower.converge()
    bench.activate("b")
    bench.refuse("b")
    asked = []
    inspect = bench.opener.inspect
    bench.opener.inspect = lambda desire, pace: (asked.append((desire.snapshot, desire.forced)), inspect(desire, pace))[1]
    bench.restart()
    assert asked == [("b", False), ("a", True)]


@pytest.mark.parametrize("left", [False, True], ids=["no folder", "an empty folder"])
def test_a_registry_that_vanishes_is_a_failure_and_what_serves_goes_on(bench, tmp_path, left):
    root = tmp_path / "mounted"
    root.mkdir()
    bench = Restarting(root)
    bench.serve("a")
    root.rename(tmp_path / "elsewhere")
    if left:
        root.mkdir()
    assert bench.follower.converge() is Outcome.FAILED
    assert bench.shown == (None, "a", SwapState.FAILED, "registry_error")
    assert "look at the mount" in bench.follower.last_error.reason
    assert bench.refusals.heard == [(None, "registry_error")]
    assert bench.follower.converge() is Outcome.BACKING_OFF
    if left:
        root.rmdir()
    (tmp_path / "elsewhere").rename(root)
    assert bench.follower.converge() is Outcome.UNCHANGED
    assert bench.shown == ("a", "a", SwapState.SERVING, None)


def test_an_operator_who_takes_current_away_is_no_failure(bench):
    bench.serve("a")
    (bench.registry.root / "CURRENT").unlink()
    assert bench.follower.converge() is Outcome.UNWANTED
    assert bench.generations.state is SwapState.SERVING


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "not signed"])
def test_what_stands_in_is_trusted_as_anything_that_serves_and_not_measured_again(tmp_path: Path, signed: bool) -> None:
    registry, private = Registry(tmp_path / "registry"), tmp_path / "key"
    generate(private, tmp_path / "key.pub")
    a, b = (make_snapshot(registry.root, rows=60, seed=seed) for seed in (1, 2))
    for layout in (a, b) if signed else (b,):
        key = sign(layout.root, private)
    registry.activate(a.root.name, "first", who="tests")
    registry.record_outcome(a.root.name, "served", "")
    registry.activate(b.root.name, "next", who="tests")
    b.tokenizer.write_bytes(b.tokenizer.read_bytes() + b" ")
    generations, recent = Generations(), RecentQueries(100, 1 << 20)
    keeper = Gatekeeper(GateOptions(p99_ms=0.0001), generations.peer, recent)
    checked = partial(verify, trust=Trust((key,), required=True))
    loader = Loader(GenerationOptions(), generations, keeper, recent, checked, served_before=registry.has_served)
    follower = Follower(registry, generations, loader, OPTIONS)
    assert follower.converge() is Outcome.FAILED
    assert generations.serving == (a.root.name if signed else None)
    assert [report.code for report in follower.gate_reports] == ["hash_mismatch", None if signed else "signature_missing"]
    assert follower.last_error is not None
    assert (follower.last_error.snapshot, follower.last_error.code) == (b.root.name, "hash_mismatch")
    assert generations.close(DEADLINE_SECONDS)
