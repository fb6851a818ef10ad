"""What is tried on one service beside what the registry wants, for a while."""

from __future__ import annotations

import pytest
from following import OPTIONS, Bench

from service.attempts import Outcome
from service.follow import Follower
from service.swap import Generations


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def tried(bench, name="new", seconds=60.0):
    """``name`` is served ahead of ``old``, which the registry wants."""
    bench.want(name)
    bench.want("old")
    assert bench.follower.converge() is Outcome.REPLACED
    bench.trials.begin(name, bench.registry.desired(), "a wave", "ann", seconds)
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
