"""The cost model: percentiles against numpy, forgetting, and what is known of what was never tried."""

import random
import threading

import numpy as np
import pytest
from manual_clock import ManualClock

from service.costs import WHOLE, Costs, Estimator, Load, Remembered, band_of, fetch_key, load_of, search_key, size_key
from snapshot.manifest import Effort, HnswIndex


def index(*rows: tuple[int, float, float]) -> HnswIndex:
    efforts = tuple(Effort(effort=number, recall_at_10=0.9, p50_ms=p50, p99_ms=p99) for number, p50, p99 in rows)
    return HnswIndex(reason="", m=16, ef_construction=100, default_effort=rows[-1][0], efforts=efforts)


TABLE = index((16, 0.5, 1.0), (64, 2.0, 4.0))


def filled(values: list[float], now: float = 0.0) -> Estimator:
    estimator = Estimator()
    for value in values:
        estimator.observe(value, now)
    return estimator


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("median_ms", [0.05, 1.0, 300.0])
def test_percentiles_are_those_of_numpy_within_a_bucket(p: float, median_ms: float) -> None:
    values = (median_ms * np.random.default_rng(0).lognormal(0, 0.6, 5_000)).tolist()
    assert filled(values).quantile(p, 0.0) == pytest.approx(np.quantile(values, p), rel=0.15)


def test_a_percentile_never_leaves_the_range_that_is_told_apart() -> None:
    assert filled([0.0] * 10).quantile(0.5, 0.0) == pytest.approx(0.01)
    assert filled([1e9] * 10).quantile(0.5, 0.0) == pytest.approx(20_000, rel=0.15)


def test_too_few_observations_say_nothing() -> None:
    assert Estimator().quantile(0.5, 0.0) is None
    assert filled([1.0, 1.0]).quantile(0.5, 0.0) is None
    assert filled([1.0, 1.0, 1.0]).quantile(0.5, 0.0) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("among", [4, 20, 99])
def test_one_pause_of_the_machine_is_no_evidence_and_more_are(among: int) -> None:
    assert filled([*[1.0] * among, 500.0]).quantile(0.99, 0.0) == pytest.approx(1.0, rel=0.15)
    assert filled([*[1.0] * among, *[500.0] * 5]).quantile(0.99, 0.0) == pytest.approx(500.0, rel=0.15)


@pytest.mark.parametrize(("later", "median_ms"), [(450, 100.0), (550, 1.0)])
def test_what_was_seen_weighs_half_after_thirty_seconds(later: int, median_ms: float) -> None:
    estimator = filled([100.0] * 1000)
    for second in range(1, 30):
        estimator.observe(50.0, float(second))  # in between, and too few to matter
    for _ in range(later):
        estimator.observe(1.0, 30.0)
    assert estimator.quantile(0.5, 30.0) == pytest.approx(median_ms, rel=0.15)


def test_what_is_not_observed_any_more_is_forgotten_whole() -> None:
    estimator = filled([100.0] * 100_000)
    assert estimator.quantile(0.5, 5.0) is not None
    assert estimator.quantile(0.5, 5.1) is None
    for _ in range(3):
        estimator.observe(1.0, 6.0)
    assert estimator.quantile(0.99, 6.0) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(("ms", "known"), [(100.0, True), (80.0, True), (120.0, True), (20.0, False), (400.0, False)])
def test_what_is_forgotten_is_believed_again_when_one_says_the_same(ms: float, known: bool) -> None:
    estimator = filled([100.0] * 20)
    assert estimator.quantile(0.5, 9.0) is None
    estimator.observe(ms, 9.0)
    assert (estimator.quantile(0.5, 9.0) is not None) is known


def test_what_faded_is_not_believed_again_on_one_word() -> None:
    estimator = filled([100.0] * 20)
    estimator.observe(100.0, 300.0)  # ten half-lives later
    assert estimator.quantile(0.5, 300.0) is None


def test_others_may_remember_for_longer() -> None:
    costs, clock = model()
    learn(costs, "64", 2.0)
    clock.advance_ms(50_000)
    assert costs.cost_ms("search", "64", 0.5, Load.QUIET) is None
    assert Remembered(costs).cost_ms("search", "64", 0.5, Load.QUIET) == pytest.approx(2.0, rel=0.15)
    assert Remembered(costs).speed(Load.QUIET) == costs.speed(Load.QUIET)
    clock.advance_ms(11_000)
    assert Remembered(costs).cost_ms("search", "64", 0.5, Load.QUIET) is None


def test_days_of_observations_stay_within_floats() -> None:
    estimator, now = Estimator(), 0.0
    while now < 3 * 86_400:
        now += 4.0
        for _ in range(4):
            estimator.observe(3.0, now)
    assert estimator.quantile(0.99, now) == pytest.approx(3.0, rel=0.15)


def test_an_answer_is_fresh_within_a_twentieth_of_a_second() -> None:
    estimator = filled([1.0] * 10_000)
    assert estimator.quantile(0.5, 0.0) == pytest.approx(1.0, rel=0.15)
    for _ in range(20_000):
        estimator.observe(9.0, 0.01)
    assert estimator.quantile(0.5, 0.051) == pytest.approx(9.0, rel=0.15)


def test_many_threads_may_write_and_read_one_estimator() -> None:
    estimator, wrong = Estimator(), []

    def work(seed: int) -> None:
        source = random.Random(seed)
        for step in range(5_000):
            now = step * 0.5  # far enough to begin anew at times, and to move the landmark
            estimator.observe(source.uniform(1.0, 2.0), now + 6 * (step % 1_000 == 0))
            seen = estimator.quantile(0.9, now)
            if seen is not None and not 0.9 < seen < 2.3:
                wrong.append(seen)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def model(table: HnswIndex = TABLE) -> tuple[Costs, ManualClock]:
    clock = ManualClock()
    return Costs(table, clock), clock


def learn(costs: Costs, key: str, ms: float, load: Load = Load.QUIET, times: int = 20) -> None:
    for _ in range(times):
        costs.observe("search", key, ms, load)


def test_busy_and_quiet_costs_are_kept_apart_and_stand_in_for_each_other() -> None:
    costs, clock = model()
    learn(costs, "64", 2.0, Load.QUIET)
    assert costs.cost_ms("search", "64", 0.5, Load.BUSY) == pytest.approx(2.0, rel=0.15)
    learn(costs, "64", 6.0, Load.BUSY)
    clock.advance_ms(100)
    assert costs.cost_ms("search", "64", 0.5, Load.BUSY) == pytest.approx(6.0, rel=0.15)
    assert costs.cost_ms("search", "64", 0.5, Load.QUIET) == pytest.approx(2.0, rel=0.15)
    assert costs.cost_ms("search", "16", 0.5, Load.QUIET) is None


@pytest.mark.parametrize(("in_flight", "load"), [(0, Load.QUIET), (2, Load.QUIET), (3, Load.BUSY)])
def test_a_load_is_busy_where_requests_outnumber_threads(in_flight: int, load: Load) -> None:
    assert load_of(in_flight, workers=2) is load


def test_the_speed_is_the_median_of_seen_over_table() -> None:
    costs, _ = model()
    assert costs.speed(Load.QUIET) is None
    learn(costs, "16", 1.5, times=30)  # three times the table
    learn(costs, "64", 20.0, times=10)  # ten times, but seldom
    learn(costs, "64 filtered", 1000.0, times=100)  # not in the table
    assert costs.speed(Load.QUIET) == pytest.approx(3.0, rel=0.15)
    assert costs.speed(Load.BUSY) == pytest.approx(3.0, rel=0.15)


def test_another_generation_has_other_costs_on_the_same_machine() -> None:
    costs, clock = model()
    learn(costs, "16", 1.5)
    after = Costs(index((16, 7.0, 9.0)), clock, costs)
    assert after.cost_ms("search", "16", 0.5, Load.QUIET) is None
    assert after.speed(Load.QUIET) == pytest.approx(3.0, rel=0.15)


def test_what_is_known_is_exported_in_seconds() -> None:
    costs, clock = model()
    learn(costs, "64", 2.0, Load.BUSY)
    costs.observe("reply", WHOLE, 1.0, Load.QUIET)  # too few to say anything
    exported = {(cost.stage, cost.key, cost.load, cost.quantile): cost.seconds for cost in costs.export()}
    assert set(exported) == {("search", "64", Load.BUSY, 0.5), ("search", "64", Load.BUSY, 0.99)}
    assert exported["search", "64", Load.BUSY, 0.5] == pytest.approx(0.002, rel=0.15)
    clock.advance_ms(6_000)
    assert not list(costs.export())


def test_sizes_make_few_keys() -> None:
    assert [size_key(n) for n in (0, 1, 2, 3, 4, 5, 64, 65, 10**9)] == ["1", "1", "2", "4", "4", "8", "64", "128", "32768"]
    assert len({size_key(n) for n in range(100_000)}) == 16
    assert (fetch_key(10, True), fetch_key(10, False)) == ("16 with fields", "16 ids")


def test_searches_are_told_apart_by_effort_and_filter() -> None:
    keys = [search_key(effort, band) for effort in (16, 64, None) for band in (None, "broad", "filtered", "narrow")]
    assert keys == [
        "16", "16 broad", "16 filtered", "16 narrow",
        "64", "64 broad", "64 filtered", "64 narrow",
        "exact", "exact broad", "exact filtered", "exact narrow",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "total", "band"),
    [
        (0, 100_000, "narrow"),
        (100, 100_000, "narrow"),
        (4_096, 4_096, "narrow"),
        (4_097, 100_000, "filtered"),
        (10_000, 100_000, "filtered"),
        (12_500, 100_000, "broad"),
        (100_000, 100_000, "broad"),
        (1_000, 1_000_000, "narrow"),
    ],
)
def test_filters_are_told_apart_by_how_much_they_leave(count: int, total: int, band: str) -> None:
    assert band_of(count, total) == band


def test_searches_are_told_apart_by_depth_beyond_what_effort_tables_measure() -> None:
    assert {search_key(64, None, window) for window in range(1, 65)} == {"64"}
    assert [search_key(None, "filtered", window) for window in (65, 256, 257, 10_000)] == [
        "exact filtered to 256", "exact filtered to 256", "exact filtered to 1024", "exact filtered to 16384",
    ]  # fmt: skip
    assert len({search_key(64, None, window) for window in range(1, 20_000)}) == 6


def test_what_takes_long_is_learned_as_often_as_it_comes() -> None:
    clock = ManualClock()
    costs = Costs(TABLE, clock)
    for number in range(4_000):
        ms = 5.0 if number % 20 == 0 else 0.4
        chosen = costs.is_to_learn()
        clock.advance_ms(ms)
        if chosen:
            costs.learn({"search": "64"}, {"search": ms}, Load.QUIET)
    assert costs.cost_ms("search", "64", 0.5, Load.QUIET) == pytest.approx(0.4, rel=0.15)
