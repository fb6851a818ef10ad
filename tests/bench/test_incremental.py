"""The measurement on few documents: that it measures what it says; the figure itself is for the full size."""

import pytest

from tests.bench.incremental import Costs, goal_line, measure


def test_the_share_leaves_the_index_out():
    costs = Costs(
        {"prepare": 3.0, "encode": 100.0}, {"since/prepare": 2.0, "since/encode": 1.0, "since/index": 50.0, "since/pack": 1.0}
    )
    assert costs.share == pytest.approx(0.04)
    assert costs.encode_share == pytest.approx(0.01)


@pytest.mark.parametrize(("value", "word"), [(0.05, "ok"), (0.0501, "short")])
def test_the_goal_line(value, word):
    assert goal_line(value) == f"GOAL incremental_cost_share {value:.4f} <=0.05 {word}"


@pytest.mark.slow
def test_both_walks_are_measured(tmp_path, capsys):
    costs = measure(tmp_path, 500, 0.01)
    assert set(costs.since) == {f"since/{name}" for name in ("export", "prepare", "encode", "index", "pack", "publish")}
    assert costs.encode_share < 0.5
    with capsys.disabled():
        print(f"\n500 documents: {goal_line(costs.share)}")
