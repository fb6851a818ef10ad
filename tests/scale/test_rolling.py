"""What a rolling measurement makes of the answers it got."""

from __future__ import annotations

import pytest

from tests.bench.figures import Row, Rows
from tests.bench.goals import judge
from tests.bench.loads import Outcome
from tests.scale.rolling import GOALS, GROUP, RESTART, SLOW, SWAP, Load, figures_of


def outcome(status: int, due: float = 0.0, latency_ms: float = 10.0) -> Outcome:
    return Outcome("search", b"", due, due, due + latency_ms / 1e3, status, b"", b"")


def test_whatever_is_not_200_has_failed_and_is_no_latency() -> None:
    found = figures_of([outcome(200), outcome(200), outcome(503, latency_ms=1000), outcome(0)])
    assert (found["requests"], found["failed"], found["status_503"], found["status_0"]) == (4, 2, 1, 1)
    assert found["p99_ms"] == pytest.approx(10.0)


def test_a_window_has_what_was_due_in_it() -> None:
    load = Load(1, 1.0, outcomes=[outcome(200, due) for due in (0.0, 1.0, 2.0)])
    load.begun = 100.0
    assert [one.due for one in load.within(101.0, 102.0)] == [1.0]


def test_each_goal_is_read_from_a_row_and_can_be_missed() -> None:
    def rows(failed: float, ratio: float) -> Rows:
        figures = {"failed": failed, "late_share": failed, "p99_ratio": ratio}
        return Rows([Row(GROUP, "fleet", name, 0, figures) for name in (RESTART, SWAP, SLOW)])

    assert [verdict.is_met for verdict in judge(rows(0, 1.0), GOALS)] == [True] * len(GOALS)
    assert [verdict.is_met for verdict in judge(rows(1, 1.3), GOALS)] == [False] * len(GOALS)
