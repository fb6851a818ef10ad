"""Which queries go together, and whether that pays; a clock that costs decide is the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import batching
from service.batching import MIN_GAIN, BatchPlan, BatchSize, batches, measure

Cost = Callable[[int, int], float]
"""Seconds of a call by its rows and their length."""


@given(
    st.lists(st.integers(0, 12), max_size=80),
    st.dictionaries(st.integers(0, 12), st.integers(1, 9)),
)
def test_batches_are_a_partition_by_length_and_no_larger_than_pays(lengths: list[int], sizes: dict[int, int]) -> None:
    found = list(batches(lengths, lambda length: sizes.get(length, 1)))
    assert sorted(position for batch in found for position in batch) == list(range(len(lengths)))
    calls: Counter[int] = Counter()
    for batch in found:
        [length] = {lengths[position] for position in batch}
        assert len(batch) <= sizes.get(length, 1)
        assert batch == sorted(batch)
        calls[length] += 1
    for length, count in Counter(lengths).items():
        assert calls[length] == -(-count // sizes.get(length, 1))  # as few calls as that allows


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., BatchPlan]:
    """Measure a graph of given costs by a clock that shows them."""
    now = [50.0]
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def of(cost: Cost, longest: int = 512) -> BatchPlan:
        def run(rows: int, length: int) -> None:
            now[0] += cost(rows, length)

        return measure(run, longest)

    return of


def reading(per_call: float, per_token: float) -> Cost:
    """Weights are read once for a call, and every token is computed."""
    return lambda rows, length: per_call + per_token * rows * length


Measure = Callable[..., BatchPlan]


def test_the_cheapest_size_for_a_query_is_taken_at_each_length(measured: Measure) -> None:
    plan = measured(reading(per_call=8.0, per_token=1.0))
    assert [(size.tokens, size.rows) for size in plan.sizes] == [(4, 8), (8, 8), (16, 8), (32, 4), (64, 1)]
    for size in plan.sizes[:4]:
        alone = 8.0 + size.tokens
        assert size.gain == pytest.approx(alone / (8.0 / size.rows + size.tokens), abs=0.006)
        assert size.gain >= MIN_GAIN
    assert plan.sizes[4].gain == 1.0  # 72 over 68: within the noise


def test_larger_calls_that_cost_more_for_each_query_are_not_taken(measured: Measure) -> None:
    cost = {1: 1.0, 2: 1.2, 4: 2.0, 8: 6.0}
    assert {size.rows for size in measured(lambda rows, _: cost[rows], longest=16).sizes} == {4}


def test_without_a_gain_every_query_goes_alone(measured: Measure) -> None:
    plan = measured(reading(per_call=0.0, per_token=1.0))
    assert {(size.rows, size.gain) for size in plan.sizes} == {(1, 1.0)}
    assert [plan.rows(length) for length in (1, 20, 500)] == [1, 1, 1]


@pytest.mark.parametrize(("saving", "rows"), [(MIN_GAIN - 0.01, 1), (MIN_GAIN + 0.01, 2)])
def test_a_gain_within_the_noise_is_none(measured: Measure, saving: float, rows: int) -> None:
    cost = {1: 1.0, 2: 2.0 / saving, 4: 4.0, 8: 8.0}
    assert measured(lambda rows, _: cost[rows], longest=8).rows(8) == rows


@pytest.mark.parametrize("quiet_round", range(5))
def test_noise_in_all_rounds_but_one_decides_nothing(measured: Measure, quiet_round: int) -> None:
    calls: Counter[tuple[int, int]] = Counter()

    def cost(rows: int, length: int) -> float:
        noisy = calls[rows, length] != quiet_round
        calls[rows, length] += 1
        return (100.0 if noisy and rows in (1, 8) else 1.0) * (8.0 + rows * length)

    quiet = measured(reading(per_call=8.0, per_token=1.0))
    assert measured(cost) == quiet


@pytest.mark.parametrize(("longest", "lengths"), [(3, []), (4, [4]), (40, [4, 8, 16, 32]), (512, [4, 8, 16, 32, 64])])
def test_no_longer_queries_are_measured_than_the_tower_reads(measured: Measure, longest: int, lengths: list[int]) -> None:
    tried: set[tuple[int, int]] = set()

    def cost(rows: int, length: int) -> float:
        tried.add((rows, length))
        return 1.0

    assert [size.tokens for size in measured(cost, longest).sizes] == lengths
    assert {length for _, length in tried} == set(lengths)
    assert max((rows * length for rows, length in tried), default=0) <= 128  # others wait while a call runs


def test_between_measured_lengths_the_longer_one_counts_and_beyond_them_none() -> None:
    plan = BatchPlan((BatchSize(4, 8, 2.0), BatchSize(16, 2, 1.3)))
    assert {length: plan.rows(length) for length in (1, 4, 5, 16, 17)} == {1: 8, 4: 8, 5: 2, 16: 2, 17: 1}
    assert BatchPlan().rows(4) == 1
