"""From outcomes to figures to verdicts, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.figures import Row, Rows, of_load, quantiles
from tests.bench.goals import Goal, best, judge, ratio, value
from tests.bench.loads import Load, Outcome
from tests.bench.promises import GOALS


def outcome(status, latency_ms, lag_ms=0.0, label="search"):
    return Outcome(label, b"", 1.0, 1.0 + lag_ms / 1e3, 1.0 + latency_ms / 1e3, status, b"", b"")


def row(subject, number, load="c=1", **figures):
    return Row("group", subject, load, number, figures)


def test_accepted_refused_and_late_are_told_apart():
    accepted = np.random.default_rng(0).exponential(20, 1000)
    outcomes = [
        *(outcome(200, latency) for latency in accepted),
        *(outcome(429, 5, lag_ms=4) for _ in range(100)),
        *(outcome(504, 51) for _ in range(50)),
        outcome(500, 1),
        outcome(0, 9000),
        outcome(200, 1, label="livez"),
    ]
    figures, curve = of_load(Load(outcomes, seconds=10.0, client_cpu_seconds=0.1153), budget_ms=50)
    assert figures["p99_ms"] == pytest.approx(np.percentile(accepted, 99))
    assert figures["p999_ms"] == pytest.approx(np.percentile(accepted, 99.9))
    assert figures["good_share"] == pytest.approx((accepted <= 50).sum() / 1152)
    assert figures["accepted_per_second"] == 100
    assert figures["offered_per_second"] == pytest.approx(115.2)
    assert figures["refused_p50_ms"] == pytest.approx(1)  # from when it was sent: the client's lag is not the server's
    assert figures["late_p50_ms"] == pytest.approx(51)
    assert figures["failed"] == 2
    assert figures["client_cpu_ms"] == pytest.approx(0.1)
    assert curve == quantiles(accepted)


def test_no_answer_leaves_no_percentiles():
    figures, curve = of_load(Load([outcome(429, 1)], 1.0, 0.0), budget_ms=50)
    assert "p50_ms" not in figures
    assert curve == []


def test_ratios_are_taken_within_rounds():
    rows = Rows([row("ours", 1, ms=4.0), row("floor", 0, ms=1.0), row("ours", 0, ms=1.5), row("floor", 1, ms=2.0)])
    of = ratio(value("group", "ours", "c=1", "ms"), value("group", "floor", "c=1", "ms"))
    assert of(rows) == [1.5, 2.0]


def test_the_best_load_is_found_in_each_round():
    rows = Rows(
        [row("ours", 0, "a", rate=1.0, cpu=5.0), row("ours", 0, "b", rate=2.0, cpu=6.0), row("ours", 1, "a", rate=3.0, cpu=7.0)]
    )
    assert rows.best("group", "ours", "rate", "cpu") == [6.0, 7.0]


@pytest.mark.parametrize(
    ("sense", "of_rounds", "bound", "figure", "is_met"),
    [
        ("<=", "median", 2.0, 2.0, True),
        ("<=", "worst", 2.0, 9.0, False),
        (">=", "median", 2.5, 2.0, False),
        (">=", "worst", 1.0, 1.0, True),
    ],
)
def test_a_goal_is_held_against_the_median_or_the_worst_round(sense, of_rounds, bound, figure, is_met):
    rows = Rows([row("ours", number, ms=ms) for number, ms in enumerate((1.0, 2.0, 9.0))])
    (verdict,) = judge(rows, [Goal("name", "what", sense, bound, value("group", "ours", "c=1", "ms"), of_rounds)])
    assert (verdict.figure, verdict.is_met) == (figure, is_met)
    assert verdict.line() == f"GOAL name {figure:.4g} {sense}{bound:g} {'ok' if is_met else 'short'}"


def test_what_was_not_measured_gets_no_verdict():
    assert judge(Rows([]), GOALS) == []
    assert judge(Rows([row("ours", 0, ms=1.0)]), [Goal("n", "w", "<=", 1, best("group", "theirs", "ms"))]) == []


def test_names_of_goals_are_unique_and_stable_in_form():
    names = [goal.name for goal in GOALS]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name == name.lower() for name in names)
