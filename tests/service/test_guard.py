"""What serves proves itself again, and a swap that went wrong is undone: real snapshots, and time that a test moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock

from service.attempts import FollowOptions, Outcome
from service.follow import Follower
from service.gate import GateOptions, GateReport
from service.generation import Generation, GenerationOptions
from service.golden import Proof
from service.guard import Guard, ProofOptions
from service.inspection import Gatekeeper
from service.loader import Loader
from service.recent import RecentQueries
from service.swap import Generations, SwapState
from service.watch import Vitals, WatchOptions
from snapshot.layout import Layout
from snapshot.leases import is_held
from snapshot.registry import Registry

WAIT_SECONDS = 10.0


class Heard:
    """A GateObserver that remembers."""

    def __init__(self) -> None:
        self.reports: list[GateReport] = []
        self.proofs: list[str] = []
        self.rollbacks: list[str] = []

    def judged(self, report: GateReport) -> None:
        self.reports.append(report)

    def proven(self, proof: Proof) -> None:
        self.proofs.append("passed")

    def disproven(self, code: str) -> None:
        self.proofs.append(code)

    def rolled_back(self, code: str) -> None:
        self.rollbacks.append(code)


class Bench:
    """A follower over two real snapshots, ``a`` and ``b``; the first serves."""

    def __init__(self, root: Path, proofs: ProofOptions, watch: WatchOptions, keep_former: bool = True) -> None:
        self.a, self.b = (make_snapshot(root, rows=60, seed=seed) for seed in (1, 2))
        self.registry, self.clock, self.heard = Registry(root), ManualClock(), Heard()
        self.vitals = Vitals(0, 0, 0)
        self.generations = Generations(keep_former=True)
        recent = RecentQueries(10, 1 << 20)
        gatekeeper = Gatekeeper(GateOptions(), self.generations.peer, recent)
        self.loader = Loader(GenerationOptions(batching=False), self.generations, gatekeeper, recent)
        guard = Guard(self.generations, proofs, watch, lambda: self.vitals, self.heard, self.clock, keep_former)
        options = FollowOptions(poll_seconds=60.0)
        self.follower = Follower(self.registry, self.generations, self.loader, options, clock=self.clock, guard=guard)
        self.want(self.a)

    def want(self, layout: Layout, **options: bool) -> Outcome:
        self.registry.activate(layout.root.name, "a test", who="tests", **options)
        return self.follower.converge()

    def after(self, seconds: float) -> Outcome:
        self.clock.advance_ms(seconds * 1000)
        return self.follower.converge()

    def outcomes(self) -> list[tuple[str, str | None]]:
        names = {self.a.root.name: "a", self.b.root.name: "b"}
        return [(names[event.snapshot], event.outcome) for event in self.registry.history() if event.action == "outcome"]

    @property
    def serving(self) -> str | None:
        return {self.a.root.name: "a", self.b.root.name: "b"}.get(self.generations.serving or "")


@contextmanager
def benched(root: Path, proofs: ProofOptions | None = None, watch: WatchOptions | None = None, **more: bool) -> Iterator[Bench]:
    bench = Bench(root, proofs or ProofOptions(interval_seconds=0), watch or WatchOptions(seconds=60), **more)
    yield bench
    assert bench.generations.close(WAIT_SECONDS)


def damage(layout: Layout) -> None:
    """Change the vectors in place, as no sealed file ever may be."""
    with layout.index.open("r+b") as handle:
        handle.seek(-16 * 4 * 40, os.SEEK_END)
        handle.write(np.random.default_rng(3).normal(size=16 * 40).astype(np.float32).tobytes())


def test_what_serves_proves_itself_every_so_often(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        for seconds, proofs in ((299, 0), (1, 1), (299, 1), (1, 2)):
            assert bench.after(seconds) is Outcome.UNCHANGED
            assert bench.heard.proofs == ["passed"] * proofs


def test_a_changed_file_fails_the_proof_loudly_and_by_name_and_goes_on_serving(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        damage(bench.a)
        assert bench.after(300) is Outcome.UNCHANGED
        assert bench.heard.proofs == ["hash_mismatch"]
        assert bench.serving == "a"
        assert bench.after(300) is Outcome.UNCHANGED
        assert bench.heard.proofs == ["hash_mismatch"] * 2


def test_why_the_last_proof_failed_is_told_until_one_passes_or_another_serves(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        bench.after(300)
        assert bench.follower.disproof is None
        whole = bench.a.tokenizer.read_bytes()
        bench.a.tokenizer.write_bytes(whole + b" ")
        bench.after(300)
        failed = bench.follower.disproof
        assert failed is not None
        assert (failed.snapshot, failed.code, bench.a.tokenizer.name in failed.reason) == (
            bench.a.root.name,
            "hash_mismatch",
            True,
        )
        bench.a.tokenizer.write_bytes(whole)
        bench.after(300)
        assert bench.heard.proofs == ["passed", "hash_mismatch", "passed"]
        assert bench.follower.disproof is None
        bench.a.tokenizer.write_bytes(whole + b" ")
        bench.after(300)
        assert bench.follower.disproof is not None
        assert bench.want(bench.b) is Outcome.REPLACED
        assert bench.follower.disproof is None


def test_a_byte_that_changed_without_a_trace_fails_a_proof(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        before, content = bench.a.tokenizer.stat(), bytearray(bench.a.tokenizer.read_bytes())
        content[-1] ^= 1
        bench.a.tokenizer.write_bytes(content)
        os.utime(bench.a.tokenizer, ns=(before.st_atime_ns, before.st_mtime_ns))
        bench.after(300)
        bench.after(300)
        assert bench.heard.proofs == ["hash_mismatch"] * 2


def test_a_file_that_was_only_touched_passes(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        os.utime(bench.a.index, (1, 1))
        bench.after(300)
        assert bench.heard.proofs == ["passed"]


def test_a_file_that_is_gone_fails_the_proof(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        bench.a.golden_rows.unlink()
        bench.after(300)
        assert bench.heard.proofs == ["file_missing"]


def test_a_damaged_manifest_fails_the_proof_and_mending_it_takes_no_lease_away(tmp_path: Path) -> None:
    with benched(tmp_path / "registry", ProofOptions(interval_seconds=300), WatchOptions(seconds=0)) as bench:
        bench.want(bench.b)
        folders, copies = [bench.a.root, bench.b.root], tmp_path / "copies"  # the former, and what serves
        for folder in folders:
            shutil.copytree(folder, copies / folder.name)
            (folder / "manifest.json").write_text("{")
        assert bench.after(300) is Outcome.UNCHANGED
        assert bench.heard.proofs[-1] == "hash_mismatch"
        for folder in folders:
            bench.registry.publish(copies / folder.name)
        assert not any(map(is_held, folders))
        bench.after(1)
        assert all(map(is_held, folders))


def test_a_proof_that_meets_the_unforeseen_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:

        def fails(_: object) -> Proof:
            raise RuntimeError("Failed to allocate memory for requested buffer")

        with monkeypatch.context() as patched:
            patched.setattr(Generation, "prove", fails)
            bench.after(300)
        assert bench.heard.proofs == ["internal"]
        bench.after(300)
        assert bench.heard.proofs == ["internal", "passed"]


def test_a_failed_proof_brings_the_former_back_where_that_is_wanted(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300, rolls_back=True), WatchOptions(seconds=0)) as bench:
        assert bench.want(bench.b) is Outcome.REPLACED
        bench.after(1)
        damage(bench.b)
        assert bench.after(300) is Outcome.ROLLED_BACK
        assert bench.serving == "a"
        assert bench.heard.rollbacks == ["hash_mismatch"]


def test_what_is_brought_back_proves_itself_at_once(tmp_path: Path) -> None:
    """It may share a damaged file with what it stands in for: an index that was linked."""
    with benched(tmp_path, ProofOptions(interval_seconds=300, rolls_back=True), WatchOptions(seconds=0)) as bench:
        bench.want(bench.b)
        bench.after(1)
        damage(bench.a)
        damage(bench.b)
        assert bench.after(300) is Outcome.ROLLED_BACK
        bench.after(1)
        assert bench.heard.proofs[-2:] == ["hash_mismatch", "hash_mismatch"]


def test_without_a_former_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=300, rolls_back=True)) as bench:
        damage(bench.a)
        assert bench.after(300) is Outcome.UNCHANGED
        assert bench.serving == "a"


def test_errors_after_a_swap_undo_it_once_and_for_all(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.vitals = Vitals(1000, 0, 0)
        assert bench.want(bench.b) is Outcome.REPLACED
        bench.vitals = Vitals(2000, 50, 0)
        assert bench.after(10) is Outcome.ROLLED_BACK
        assert bench.serving == "a"
        assert bench.generations.state is SwapState.FAILED
        error = bench.follower.last_error
        assert error is not None
        assert (error.snapshot, error.code) == (bench.b.root.name, "rolled_back")
        assert "errors 5.0% of 1000 answers" in error.reason
        assert bench.outcomes()[-2:] == [("b", "served"), ("b", "rolled_back")]
        for _ in range(3):
            assert bench.after(1000) is Outcome.DECLINED
        assert bench.follower.retry_in_seconds is None
        assert bench.serving == "a"


def test_wanting_it_anew_tries_it_anew(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.want(bench.b)
        bench.vitals = Vitals(1000, 500, 0)
        assert bench.after(10) is Outcome.ROLLED_BACK
        bench.registry.activate(bench.b.root.name, "it was the network", who="tests")
        assert bench.follower.converge() is Outcome.REPLACED
        assert bench.serving == "b"
        assert bench.follower.last_error is None


def test_an_operator_who_agrees_changes_nothing(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.want(bench.b)
        bench.vitals = Vitals(1000, 500, 0)
        bench.after(10)
        bench.registry.rollback("indeed", who="tests")
        assert bench.follower.converge() is Outcome.UNCHANGED
        assert bench.follower.last_error is None
        assert bench.generations.state is SwapState.SERVING


def test_errors_long_after_a_swap_do_not_undo_it(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.want(bench.b)
        assert bench.after(61) is Outcome.UNCHANGED
        bench.vitals = Vitals(1000, 1000, 0)
        assert bench.after(1) is Outcome.UNCHANGED
        assert bench.serving == "b"


def test_the_first_snapshot_is_not_watched(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.vitals = Vitals(1000, 1000, 0)
        assert bench.after(1) is Outcome.UNCHANGED


def test_going_back_is_one_assignment_and_does_not_open_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with benched(tmp_path) as bench:
        before = bench.generations.current
        bench.want(bench.b)
        monkeypatch.setattr(bench.loader, "open", lambda *arguments: pytest.fail("was opened"))
        bench.registry.rollback("worse answers", who="tests")
        assert bench.follower.converge() is Outcome.RETURNED
        assert bench.generations.current is before
        assert bench.generations.former == bench.b.root.name
        assert bench.heard.reports[-1].passed
        assert [check.name for check in bench.heard.reports[-1].checks] == ["golden_vectors", "golden_hits"]
        assert bench.want(bench.b) is Outcome.RETURNED
        assert bench.outcomes() == [("a", "served"), ("b", "served"), ("a", "served"), ("b", "served")]


def test_what_one_goes_back_to_proves_itself_at_once(tmp_path: Path) -> None:
    """Who goes back because a proof failed must not be paged for what served before until the next one."""
    with benched(tmp_path, ProofOptions(interval_seconds=300)) as bench:
        bench.want(bench.b)
        bench.after(61)
        damage(bench.b)
        bench.after(300)
        assert bench.heard.proofs[-1] == "hash_mismatch"
        assert bench.want(bench.a) is Outcome.RETURNED
        proofs = len(bench.heard.proofs)
        bench.after(1)
        bench.after(298)
        assert bench.heard.proofs[proofs:] == ["passed"]


def test_a_former_that_was_changed_meanwhile_is_not_served(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.want(bench.b)
        damage(bench.a)
        bench.registry.rollback("worse answers", who="tests")
        assert bench.follower.converge() is Outcome.FAILED
        assert bench.serving == "b"
        assert bench.follower.last_error is not None
        assert bench.follower.last_error.code == "hash_mismatch"


def test_the_former_is_closed_after_the_watch_where_it_is_not_to_be_kept(tmp_path: Path) -> None:
    with benched(tmp_path, keep_former=False) as bench:
        bench.want(bench.b)
        bench.after(10)
        assert bench.generations.former == bench.a.root.name
        bench.after(60)
        assert bench.generations.former is None
        assert bench.serving == "b"


def test_a_proof_is_made_soon_after_a_swap_and_often_while_it_is_watched(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=3600)) as bench:
        bench.want(bench.b)
        assert bench.heard.proofs == []
        for seconds, proofs in ((0, 1), (14, 1), (1, 2), (15, 3), (15, 4), (15, 5), (1000, 5)):
            bench.after(seconds)
            assert len(bench.heard.proofs) == proofs
        damage(bench.b)


def test_a_proof_that_fails_while_it_is_watched_undoes_the_swap(tmp_path: Path) -> None:
    with benched(tmp_path, ProofOptions(interval_seconds=3600)) as bench:
        bench.want(bench.b)
        damage(bench.b)
        assert bench.after(1) is Outcome.ROLLED_BACK
        assert bench.serving == "a"


def test_a_refusal_is_recorded_once_however_often_it_is_tried(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        damage(bench.b)
        assert bench.want(bench.b) is Outcome.FAILED
        for _ in range(3):
            assert bench.after(1000) is Outcome.FAILED
        assert bench.outcomes() == [("a", "served"), ("b", "refused")]
        assert [report.accepted for report in bench.follower.gate_reports] == [True, False, False, False, False]


def test_force_is_another_desire_and_does_not_wait(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        small = make_snapshot(tmp_path, rows=20, seed=3)
        assert bench.want(small) is Outcome.FAILED
        assert bench.follower.last_error is not None
        assert bench.follower.last_error.code == "gate_documents"
        assert bench.follower.converge() is Outcome.BACKING_OFF
        assert 0 < (bench.follower.retry_in_seconds or 0) <= 1
        assert bench.want(small, force=True) is Outcome.REPLACED
        report = bench.follower.gate_reports[-1]
        assert (report.forced, report.why) == (True, "a test")
        assert bench.follower.retry_in_seconds is None


def test_a_rollback_is_not_refused_for_being_smaller(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        large = make_snapshot(tmp_path, rows=600, seed=4)
        assert bench.want(large, force=True) is Outcome.REPLACED
        bench.generations.forget_former()
        bench.registry.rollback("too slow", who="tests")
        assert bench.follower.converge() is Outcome.REPLACED
        assert bench.serving == "a"
        assert not bench.follower.gate_reports[-1].forced


def test_no_more_than_two_are_open_while_a_third_is_loaded(tmp_path: Path) -> None:
    with benched(tmp_path) as bench:
        bench.want(bench.b)
        third = make_snapshot(tmp_path, rows=60, seed=5)
        open_before: list[str | None] = []
        load = bench.loader.open
        bench.loader.open = lambda layout, enter, found: load(  # type: ignore[method-assign]
            layout, lambda step: (enter(step), open_before.append(bench.generations.former)), found
        )
        assert bench.want(third) is Outcome.REPLACED
        assert open_before == [bench.a.root.name, None, None, None]
        assert bench.generations.former == bench.b.root.name
