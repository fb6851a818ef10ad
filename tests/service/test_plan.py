"""The degradation ladder, as a table and as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from service.costs import WHOLE, Costs, CostStage, Load, Remembered, fetch_key, search_key
from service.plan import FETCH_MS, FETCH_MS_PER_HIT, Asked, Cause, CostsView, Planner, SearchPlan, least_ms, plan_search
from snapshot.manifest import Effort, FlatIndex, HnswIndex, Index, IvfPqIndex


def effort(number: int, recall: float, p50: float, p99: float) -> Effort:
    return Effort(effort=number, recall_at_10=recall, p50_ms=p50, p99_ms=p99)


HNSW = HnswIndex(
    reason="",
    m=16,
    ef_construction=100,
    default_effort=64,
    efforts=(effort(16, 0.8, 0.5, 1.0), effort(32, 0.9, 1.0, 2.0), effort(64, 0.96, 2.0, 4.0), effort(256, 0.99, 8.0, 16.0)),
)
FLAT = FlatIndex(reason="", default_effort=0, efforts=(effort(0, 1.0, 3.0, 5.0),))

IVF = IvfPqIndex(reason="", nlist=256, pq_bytes=8, refine_factor=4, default_effort=64, efforts=HNSW.efforts)

K = 10
FETCH = FETCH_MS + K * FETCH_MS_PER_HIT  # 0.6 ms

Rung = tuple[int, bool, tuple[Cause, ...], float]


class Known:
    """Costs as a test says: (stage, key) to (median, else), for every load where none is named. By default nothing is known."""

    def __init__(self, costs: dict[tuple[str, ...], tuple[float, float]] | None = None, speed: float | None = None) -> None:
        self.costs = costs or {}
        self.ratio = speed

    def cost_ms(self, stage: CostStage, key: str, probability: float, load: Load) -> float | None:
        known = self.costs.get((stage, key, load)) or self.costs.get((stage, key))
        return None if known is None else known[probability > 0.5]

    def speed(self, load: Load) -> float | None:
        return self.ratio


NOTHING = Known()


def plan(
    remaining_ms: float,
    index: Index = HNSW,
    k: int = K,
    costs: CostsView = NOTHING,
    load: Load = Load.QUIET,
    *,
    exact: bool = False,
    fields: bool = True,
    filtered: bool = False,
) -> SearchPlan | None:
    return plan_search(remaining_ms, load, index, costs, k, exact=exact, fields=fields, filtered=filtered)


@pytest.mark.parametrize(
    ("remaining_ms", "expected"),
    [
        (1000, (64, True, (), 0.96)),
        (4.0 + FETCH, (64, True, (), 0.96)),
        (4.5, (32, True, ("deadline_effort",), 0.9)),
        (2.5, (16, True, ("deadline_effort",), 0.8)),
        (1.5, (16, False, ("deadline_effort", "deadline_fields"), 0.8)),
        (0.5, (16, False, ("deadline_effort", "deadline_fields"), 0.8)),
        (0.4, None),
        (0.0, None),
        (-5.0, None),
    ],
)
def test_less_time_takes_a_lower_rung(remaining_ms: float, expected: Rung | None) -> None:
    found = plan(remaining_ms)
    assert (None if found is None else (found.effort, found.with_fields, found.causes, found.expected_recall)) == expected


@pytest.mark.parametrize(
    ("remaining_ms", "expected"),
    [
        (1000, (True, ())),
        (5.6, (True, ())),
        (5.5, (False, ("deadline_fields",))),
        (3.0, (False, ("deadline_fields",))),
        (2.9, None),
    ],
)
def test_a_flat_index_has_only_fields_to_give_up(remaining_ms: float, expected: tuple[bool, tuple[Cause, ...]] | None) -> None:
    found = plan(remaining_ms, FLAT)
    assert (None if found is None else (found.with_fields, found.causes)) == expected


@pytest.mark.parametrize("remaining_ms", [1000, 1.0, 0.6])
def test_fields_that_nobody_asked_for_are_no_loss(remaining_ms: float) -> None:
    found = plan(remaining_ms, fields=False)
    assert found is not None
    assert not found.with_fields
    assert "deadline_fields" not in found.causes


def test_exact_search_keeps_its_recall_and_gives_up_fields_only() -> None:
    full, late = plan(10, exact=True), plan(FETCH / 2, exact=True)
    assert full is not None
    assert late is not None
    assert (full.exact, full.with_fields, full.causes, full.expected_recall) == (True, True, (), 1.0)
    assert (late.exact, late.with_fields, late.causes, late.expected_recall) == (True, False, ("deadline_fields",), 1.0)
    assert plan(-1, exact=True) is None


def test_exact_search_that_was_seen_to_take_too_long_is_not_begun() -> None:
    costs = Known({("search", "exact"): (30.0, 60.0)})
    kept = [(found.with_fields if (found := plan(ms, costs=costs, exact=True)) else None) for ms in (61, 60, 30, 29)]
    assert kept == [True, False, False, None]


def test_more_hits_need_more_time_to_fetch() -> None:
    few, many = plan(8.0, k=10), plan(8.0, IVF, k=1000)
    assert few is not None
    assert many is not None
    assert (few.effort, few.with_fields) == (64, True)
    assert (many.effort, many.with_fields) == (16, False)


@pytest.mark.parametrize(
    ("k", "offset", "rungs"),
    [(10, 0, [64, 32, 16, 16]), (16, 15, [64, 32, 16, 16]), (10, 22, [64, 32, 32]), (32, 32, [64, 64]), (100, 900, [64, 64])],
)
def test_a_graph_asked_for_more_than_an_effort_has_no_cheaper_rung_there(k: int, offset: int, rungs: list[int]) -> None:
    budgets = [ms / 100 for ms in range(2_000, 0, -1)]
    found = [
        plan_search(ms, Load.QUIET, HNSW, NOTHING, k, exact=False, fields=True, filtered=False, offset=offset) for ms in budgets
    ]
    met = list(dict.fromkeys(each for each in found if each is not None))
    assert [each.effort for each in met] == rungs
    for each in met:
        assert ("deadline_effort" in each.causes) == (each.effort < 64)


def test_lists_are_probed_at_any_effort_however_much_is_asked_for() -> None:
    assert {each.effort for ms in range(20) if (each := plan(ms, IVF, k=1000, fields=False)) is not None} == {16, 32, 64}


def test_what_deep_searches_cost_is_told_apart() -> None:
    costs = Known({("search", "64 to 1024"): (30.0, 60.0)})
    assert plan_search(50.0, Load.QUIET, HNSW, costs, 10, exact=False, fields=False, filtered=False) is not None
    deep = [
        plan_search(ms, Load.QUIET, HNSW, costs, 10, exact=False, fields=False, filtered=False, offset=900) for ms in (30.0, 29.0)
    ]
    assert [each is not None for each in deep] == [True, False]


def test_an_effort_above_the_default_is_never_taken() -> None:
    found = plan(1e9)
    assert found is not None
    assert found.effort == 64


def taken(remaining_ms: float, costs: CostsView, load: Load = Load.QUIET, *, filtered: bool = False) -> int | None:
    found = plan(remaining_ms, costs=costs, load=load, filtered=filtered, fields=False)
    return None if found is None else found.effort


def test_what_was_seen_here_counts_more_than_the_table() -> None:
    costs = Known({("search", "64"): (9.0, 20.0)})
    assert [taken(ms, costs) for ms in (20, 19, 4)] == [64, 32, 32]


def test_what_was_not_seen_costs_as_in_the_table_times_the_speed_of_this_machine() -> None:
    slow, fast = Known(speed=3.0), Known(speed=0.5)
    assert [taken(ms, slow) for ms in (12, 11.9, 5.9, 3)] == [64, 32, 16, 16]
    assert [taken(ms, fast) for ms in (2, 1.9)] == [64, 32]


def test_only_what_was_seen_of_a_search_refuses_it_not_the_speed_seen_of_others() -> None:
    assert [taken(ms, Known(speed=50.0)) for ms in (0.5, 0.4)] == [16, None]
    assert [taken(ms, Known({("search", "16"): (25.0, 50.0)}, speed=50.0)) for ms in (25, 24)] == [16, None]


def test_the_load_chooses_the_costs() -> None:
    costs = Known({("search", "64", Load.QUIET): (2.0, 4.0), ("search", "64", Load.BUSY): (8.0, 16.0)})
    assert (taken(10, costs, Load.QUIET), taken(10, costs, Load.BUSY)) == (64, 32)


def test_a_filtered_search_has_costs_of_its_own() -> None:
    costs = Known({("search", "64 filtered"): (8.0, 16.0)})
    assert (taken(10, costs), taken(10, costs, filtered=True)) == (64, 32)


def test_what_follows_the_search_needs_time_too() -> None:
    after = {("fetch", fetch_key(K, True)): (1.0, 2.0), ("render", fetch_key(K, True)): (0.5, 3.0), ("reply", WHOLE): (0.1, 1.0)}
    found = [plan(ms, costs=Known(after)) for ms in (4.0 + 6.0, 4.0 + 5.9)]
    assert [each.effort for each in found if each] == [64, 32]


def test_an_effort_that_was_bad_for_a_while_is_tried_again() -> None:
    clock = ManualClock()
    costs = Costs(HNSW, clock)
    chosen = []
    for tick in range(1200):  # two minutes of ten searches a second with 6 ms each
        found = plan(6.0, costs=costs, fields=False)
        assert found is not None
        chosen.append(found.effort)
        row = next(row for row in HNSW.efforts if row.effort == found.effort)
        bad = tick < 100 and found.effort == 64
        costs.observe("search", search_key(found.effort, None), 50.0 if bad else row.p50_ms, Load.QUIET)
        clock.advance_ms(100)
    assert chosen[0] == 64
    assert chosen[10:100].count(32) >= 80
    assert 1 <= chosen[10:100].count(64) <= 3  # one is enough to see that it is still bad
    assert set(chosen[-600:]) == {64}


table = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 10), st.floats(0, 10)),
    min_size=1,
    max_size=6,
).map(lambda rows: tuple(effort(2**i, recall, p50, p50 + more) for i, (recall, p50, more) in enumerate(rows)))
seen = st.dictionaries(
    st.tuples(st.just("search"), st.sampled_from([search_key(2**i, None) for i in range(6)])),
    st.tuples(st.floats(0, 20), st.floats(0, 20)),
)


@given(table, st.integers(0, 5), seen, st.sampled_from([None, 0.3, 3.0]), st.floats(0, 40), st.floats(0, 40), st.booleans())
def test_more_time_never_means_less(
    rows: tuple[Effort, ...],
    default: int,
    known: dict[tuple[str, ...], tuple[float, float]],
    speed: float | None,
    less_ms: float,
    more_ms: float,
    fields: bool,
) -> None:
    index = HnswIndex(reason="", m=16, ef_construction=100, default_effort=rows[min(default, len(rows) - 1)].effort, efforts=rows)
    plans = [plan(ms, index, costs=Known(known, speed), fields=fields) for ms in sorted((less_ms, more_ms))]
    worth = [(-1, False) if each is None else (each.effort, each.with_fields) for each in plans]
    assert worth == sorted(worth)
    for each in plans:
        if each is not None:
            row = next(row for row in rows if row.effort == each.effort)
            assert each.expected_recall == row.recall_at_10
            assert each.effort <= index.default_effort
            assert ("deadline_effort" in each.causes) == (each.effort < index.default_effort)
            assert ("deadline_fields" in each.causes) == (fields and not each.with_fields)


def needed(costs: CostsView, *, tokens: int | None = 9, exact: bool = False, filtered: bool = False) -> float:
    return least_ms(HNSW, costs, Load.QUIET, tokens=tokens, k=K, exact=exact, filtered=filtered)


def test_a_model_that_knows_nothing_needs_nothing() -> None:
    assert needed(NOTHING) == 0.0
    assert needed(Known(speed=3.0), exact=True, filtered=True) == 0.0


def test_what_is_still_to_come_adds_up_at_its_cheapest() -> None:
    costs = Known(
        {
            ("encode", "16"): (0.4, 9.0),
            ("filter", WHOLE): (10.0, 90.0),
            ("search", "16"): (1.0, 90.0),
            ("search", "16 filtered"): (2.0, 90.0),
            ("search", "64"): (5.0, 90.0),
            ("search", "exact"): (7.0, 90.0),
            ("fetch", fetch_key(K, False)): (0.01, 9.0),
            ("fetch", fetch_key(K, True)): (3.0, 9.0),
            ("reply", WHOLE): (0.1, 9.0),
        }
    )
    assert needed(costs) == pytest.approx(0.4 + 1.0 + 0.01 + 0.1)
    assert needed(costs, tokens=None) == pytest.approx(1.0 + 0.01 + 0.1)
    assert needed(costs, exact=True) == pytest.approx(0.4 + 7.0 + 0.01 + 0.1)
    assert needed(costs, filtered=True) == pytest.approx(0.4 + 10.0 + 2.0 + 0.01 + 0.1)


class Learned(Known):
    """Known costs that may change, and how often they were asked for."""

    asked = 0

    def cost_ms(self, stage: CostStage, key: str, probability: float, load: Load) -> float | None:
        self.asked += 1
        return super().cost_ms(stage, key, probability, load)


@given(
    st.floats(0, 20),
    st.builds(Asked, st.sampled_from(Load), st.sampled_from([1, 10, 1000]), st.just(0), *[st.booleans()] * 3, st.just(0.99)),
    st.sampled_from([0, 30, 5000]),
)
def test_a_planner_plans_as_if_each_plan_were_worked_out(remaining_ms: float, asked: Asked, offset: int) -> None:
    asked = asked._replace(window=offset + asked.k)
    costs, clock = Known({("search", search_key(64, None)): (1.0, 3.0), ("encode", "16"): (2.0, 4.0)}), ManualClock()
    planner = Planner(HNSW, costs, clock)
    expected = plan_search(
        remaining_ms,
        asked.load,
        HNSW,
        costs,
        asked.k,
        exact=asked.exact,
        fields=asked.fields,
        filtered=asked.filtered,
        probability=asked.probability,
        offset=offset,
    )
    assert planner.plan(remaining_ms, asked) == expected
    needed_ms = least_ms(HNSW, costs, asked.load, tokens=9, k=asked.k, exact=asked.exact, filtered=asked.filtered, offset=offset)
    assert planner.worth(needed_ms + 0.001, asked, 9)
    assert not planner.worth(needed_ms - 0.001, asked, 9)


def test_a_filter_is_planned_for_by_how_much_it_leaves_and_before_that_by_the_cheapest() -> None:
    dear = {("search", search_key(number, "filtered")): (20.0, 20.0) for number in (16, 32, 64)}
    cheap = {("search", search_key(number, "narrow")): (0.2, 0.4) for number in (16, 32, 64)}
    planner, asked = Planner(HNSW, Known(dear | cheap), ManualClock()), Asked(Load.QUIET, 10, 10, False, False, True, 0.99)
    plans = {band: planner.plan(3.0, asked._replace(band=band)) for band in ("narrow", "filtered", "broad")}
    assert plans["narrow"] is not None
    assert plans["narrow"].causes == ()
    assert plans["filtered"] is None
    assert plans["broad"] is not None  # nothing is known of it but the table
    assert planner.worth(3.0, asked, 9)
    assert not Planner(HNSW, Known(dear), ManualClock()).worth(3.0, asked, 9)


def test_a_ladder_lasts_a_moment_only() -> None:
    key, clock = ("search", search_key(64, None)), ManualClock()
    costs = Learned({key: (1.0, 1.0)})
    planner, asked = Planner(HNSW, costs, clock), Asked(Load.QUIET, 10, 10, False, False, False, 0.99)
    assert getattr(planner.plan(2.0, asked), "effort", None) == 64
    before = costs.asked
    assert planner.plan(2.0, asked) == planner.plan(2.0, asked)
    assert costs.asked == before
    costs.costs[key] = (9.0, 9.0)
    clock.advance_ms(60)
    assert getattr(planner.plan(2.0, asked), "effort", None) != 64


def test_what_seems_hopeless_is_tried_now_and_then() -> None:
    clock = ManualClock()
    costs = Known({("search", search_key(number, None)): (50.0, 50.0) for number in (16, 32, 64)})
    planner, asked = Planner(HNSW, costs, clock), Asked(Load.QUIET, 10, 10, False, False, False, 0.99)
    tried = 0
    for _ in range(200):
        clock.advance_ms(20)
        if planner.worth(5.0, asked, 9):
            found = planner.plan(5.0, asked)
            assert found is not None
            assert found.effort == 16
            tried += 1
    assert 7 <= tried <= 24  # of 200 in 4 s


def test_what_seems_hopeless_is_left_to_others_where_there_are_some() -> None:
    clock = ManualClock()
    costs = Known({("search", search_key(number, None)): (50.0, 50.0) for number in (16, 32, 64)})
    planner, asked = Planner(HNSW, costs, clock), Asked(Load.QUIET, 10, 10, False, False, False, 0.99, elsewhere=True)
    learned = 0
    for _ in range(1000):
        clock.advance_ms(20)
        assert not planner.worth(5.0, asked, 9)
        assert planner.plan(5.0, asked) is None
        learned += planner.is_to_learn()
    assert learned == 3  # in 20 s
    assert planner.least(asked).effort == 16
    assert planner.plan(60.0, asked) is not None


def test_what_is_left_to_others_is_remembered_while_what_is_learned_says_the_same() -> None:
    """30 requests a second with 90 ms each; a search takes 100 ms for half a minute, then 1."""
    clock = ManualClock()
    costs = Costs(HNSW, clock)
    planner, asked = Planner(HNSW, costs, clock, Remembered(costs)), Asked(Load.QUIET, 10, 10, False, False, False, 0.99, True)
    tried = {100.0: 0, 1.0: 0}
    for second in range(40):
        ms = 100.0 if second < 30 else 1.0
        for _ in range(30):
            clock.advance_ms(1000 / 30)
            found = planner.plan(90.0, asked) if planner.worth(90.0, asked, 9) else None
            tried[ms] += found is not None
            if found is None and planner.is_to_learn():
                found = planner.least(asked)
            if found is not None:
                costs.observe("search", search_key(found.effort, None), ms, Load.QUIET)
    assert 3 <= tried[100.0] <= 12  # of 900: what it takes to learn, once
    assert tried[1.0] > 120  # of 300
