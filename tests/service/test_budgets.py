"""Answers are told apart by route and by how often the default budget goes into theirs."""

from __future__ import annotations

import pytest

from service.budgets import Budgets, Kind, Tally


@pytest.mark.parametrize(
    ("budget_ms", "octave"),
    [(50.0, 0), (49.999999999, 0), (99.0, 0), (100.0, 1), (49.0, -1), (25.0, -1), (24.0, -2), (1.0, -6), (1e-9, -10), (1e9, 10)],
)
def test_budgets_within_a_factor_of_two_are_alike(budget_ms: float, octave: int) -> None:
    budgets = Budgets(50.0)
    budgets.answered("/search", budget_ms, late=True)
    assert budgets.read() == {Kind("/search", octave): Tally(1, 1)}


def test_routes_are_told_apart_and_what_was_read_stays() -> None:
    budgets = Budgets(50.0)
    budgets.answered("/search", 50.0, late=False)
    read = budgets.read()
    budgets.answered("/search", 60.0, late=True)
    budgets.answered("/embed", 60.0, late=False)
    assert read == {Kind("/search", 0): Tally(1, 0)}
    assert budgets.read() == {Kind("/search", 0): Tally(2, 1), Kind("/embed", 0): Tally(1, 0)}
