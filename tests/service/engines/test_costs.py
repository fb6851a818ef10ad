"""Curves of cost, and how they are measured."""

from __future__ import annotations

import pytest

from service.engines import costs
from service.engines.costs import Costs, Curve, measure
from snapshot.selection import Selection


@pytest.mark.parametrize(
    ("size", "ms"),
    [(1, 2.0), (10, 2.0), (20, 3.0), (30, 4.0), (165, 7.0), (300, 10.0), (600, 20.0)],
    ids=["below", "least", "between", "measured", "between-again", "largest", "beyond"],
)
def test_a_curve_is_linear_between_what_was_measured_and_proportional_beyond(size: int, ms: float) -> None:
    assert Curve((10, 30, 300), (2.0, 4.0, 10.0)).at(size) == pytest.approx(ms)


@pytest.mark.parametrize(("selected", "ms"), [(100, 10.0), (50, 6.0), (0, 2.0)])
def test_approximate_search_costs_less_where_fewer_rows_are_selected(selected: int, ms: float) -> None:
    flat = Curve((1.0,), (1.0,))
    found = Costs(flat, all_rows=Curve((8.0,), (10.0,)), few_rows=Curve((8.0,), (2.0,)))
    assert found.approximate_ms(8, Selection(100, selected, Selection.none(100).held)) == pytest.approx(ms)


def test_the_fastest_of_several_counts_and_a_larger_size_never_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    spent = {10: iter([5.0, 2.0, 9.0]), 20: iter([1.5, 1.8, 4.0]), 30: iter([7.0, 7.0, 3.0])}

    def search(size: int) -> None:
        nonlocal now
        now += next(spent[size]) / 1000

    monkeypatch.setattr(costs.time, "perf_counter", lambda: now)
    found = measure([10, 20, 30], search)
    assert found.sizes == (10, 20, 30)
    assert found.costs_ms == pytest.approx((2.0, 2.0, 3.0))
