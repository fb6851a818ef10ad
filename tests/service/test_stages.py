"""Encode, filter, search and fetch against one generation; numpy is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crew import alone
from make_snapshot import KINDS, make_oracle
from manual_clock import ManualClock
from serving import composed, hooked, make_registry, slow

import service.stages
from service.cache import VectorCache
from service.costs import WHOLE, Costs, Load, fetch_key, search_key
from service.deadline import Deadline
from service.errors import DeadlineExceededError, InvalidRequestError
from service.generation import Generation
from service.plan import Planner
from service.stages import Search, Stages, Target
from service.steps import Pause
from service.walk import Caller, Walk
from snapshot.filters import Filter, parse_filter

ORACLE = make_oracle(rows=200)


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    with composed(folder) as parts, parts.generations.lease() as leased:
        yield leased


def walk_of(clock: ManualClock | None = None, budget_ms: float = 1000) -> Walk:
    clock = clock or ManualClock()
    return Walk(Deadline.after(budget_ms, clock(), clock), Caller())


def run(generation: Generation, method: str, argument: Any, walk: Walk | None = None, cache_bytes: int = 0) -> Any:
    walk = walk or walk_of()
    stages = Stages(generation, walk, VectorCache(cache_bytes), Target())
    return alone(getattr(stages, method)(argument), walk)


def expected(query: str, count: int, eligible: Any = None) -> list[str]:
    scores = (ORACLE.encode([query]) @ ORACLE.documents.T)[0]
    if eligible is not None:
        scores = np.where(eligible, scores, -np.inf)
    return [f"doc-{row}" for row in np.argsort(-scores, kind="stable")[:count]]


def ids(result: Any) -> list[str]:
    return [hit.id for hit in result.hits]


def test_hits_are_those_of_exact_search_with_their_scores_and_fields(generation: Generation) -> None:
    result = run(generation, "search", Search("apple bread", k=5, exact=True))
    assert ids(result) == expected("apple bread", 5)
    scores = np.sort((ORACLE.encode(["apple bread"]) @ ORACLE.documents.T)[0])[::-1][:5]
    np.testing.assert_allclose([hit.score for hit in result.hits], scores, atol=1e-5)
    row = int(result.hits[0].id.removeprefix("doc-"))
    assert result.hits[0].fields is not None
    assert result.hits[0].fields["text"] == ORACLE.texts[row]
    assert set(result.hits[0].fields) == {"text", "kind", "number", "price", "sold"}
    assert (result.plan.causes, result.truncated) == ((), False)


def test_pages_continue_each_other(generation: Generation) -> None:
    whole = ids(run(generation, "search", Search("chair drum", k=12, exact=True)))
    pages = [ids(run(generation, "search", Search("chair drum", k=4, offset=at, exact=True))) for at in (0, 4, 8)]
    assert [hit for page in pages for hit in page] == whole


def test_a_page_beyond_the_last_document_is_empty(generation: Generation) -> None:
    assert ids(run(generation, "search", Search("chair", k=10, offset=195))) != []
    assert ids(run(generation, "search", Search("chair", k=10, offset=500))) == []


@pytest.mark.parametrize("exact", [True, False])
def test_a_filtered_search_returns_k_hits_whenever_k_match(generation: Generation, exact: bool) -> None:
    eligible = np.array([KINDS[row % 3] == "toy" and row >= 150 for row in range(200)])
    wanted = {"kind": "toy", "number": {"$gte": 150}}
    result = run(generation, "search", Search("lamp", k=10, filter=wanted, exact=exact))
    assert ids(result) == expected("lamp", 10, eligible)


def test_fewer_matches_than_k_are_all_returned(generation: Generation) -> None:
    result = run(generation, "search", Search("lamp", k=10, filter={"number": {"$lt": 3}}))
    assert sorted(ids(result)) == ["doc-0", "doc-1", "doc-2"]


def test_min_score_leaves_out_lower_hits_only(generation: Generation) -> None:
    every = run(generation, "search", Search("apple", k=20, exact=True)).hits
    bound = every[7].score
    some = run(generation, "search", Search("apple", k=20, exact=True, min_score=bound)).hits
    assert [hit.id for hit in some] == [hit.id for hit in every if hit.score >= bound]


def test_fields_are_those_that_were_asked_for(generation: Generation) -> None:
    assert run(generation, "search", Search("apple", fields=("price", "kind"))).hits[0].fields.keys() == {
        "price",
        "kind",
    }
    none = run(generation, "search", Search("apple", fields=()))
    assert {str(hit.fields) for hit in none.hits} == {"{}"}
    assert none.plan.causes == ()


@pytest.mark.parametrize(
    ("search", "path", "message"),
    [
        (Search("apple", fields=("kind", "colour")), "fields.1", "'colour' is not a field; there are: text, kind"),
        (Search("apple", filter={"colour": 1}), "filter.colour", "'colour' is not a field"),
        (Search("apple", filter={"text": "x"}), "filter.text", "cannot be filtered on"),
        (
            Search("apple", filter={"$or": [{"kind": "toy"}, {"price": {"$near": 1}}]}),
            "filter.$or.1.price.$near",
            "unknown operator",
        ),
        (Search("apple", filter={"number": {"$gt": "ten"}}), "filter.number.$gt", "is of type integer"),
    ],
)
def test_what_the_snapshot_lacks_is_named_by_its_path(generation: Generation, search: Search, path: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        run(generation, "search", search)
    [error] = caught.value.errors
    assert error.path == path
    assert message in error.message
    with pytest.raises(InvalidRequestError) as caught:
        run(generation, "search_many", [Search("fine"), search])
    assert caught.value.errors[0].path == f"1.{path}"


def test_a_batch_answers_each_as_if_alone(generation: Generation) -> None:
    searches = [Search(f"{text.split()[0]} {text.split()[3]}", k=3, exact=True) for text in ORACLE.texts[:70]]
    results = run(generation, "search_many", searches)
    assert [ids(result) for result in results] == [expected(search.query, 3) for search in searches]


def test_encoding_many_texts_is_encoding_each(generation: Generation) -> None:
    texts = [*ORACLE.texts[:40], " ".join(["apple"] * 50)]
    encoded = run(generation, "encode", texts)
    np.testing.assert_allclose(encoded.vectors, ORACLE.encode(texts), atol=1e-5)
    assert encoded.tokens == [8] * 40 + [12]
    assert encoded.truncated == [False] * 40 + [True]


def test_little_time_takes_less_effort_and_says_so(generation: Generation) -> None:
    clock = ManualClock()
    slowed = hooked(generation, slow(clock, {"encode": 9.4}))
    result = run(slowed, "search", Search("apple"), walk_of(clock, budget_ms=10))
    assert result.plan.causes == ("deadline_effort", "deadline_fields")
    assert len(result.hits) == 10
    assert {hit.fields for hit in result.hits} == {None}


def test_a_batch_shares_out_the_time_that_is_left(generation: Generation) -> None:
    clock = ManualClock()
    slowed = hooked(generation, slow(clock, {"encode": 1.0}))
    searches = [Search("apple"), Search("bread"), Search("chair")]
    results = run(slowed, "search_many", searches, walk_of(clock, budget_ms=3.2))
    assert [result.plan.causes for result in results] == [("deadline_effort", "deadline_fields")] + [()] * 2


def test_the_filters_of_a_batch_are_parsed_within_its_budget(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, parsed = ManualClock(), list[Any]()

    def parse(raw: Any, columns: Any) -> Filter:
        parsed.append(raw)
        clock.advance_ms(1)
        return parse_filter(raw, columns)

    monkeypatch.setattr(service.stages, "parse_filter", parse)
    searches = [Search("apple", filter={"number": {"$gte": number}}) for number in range(100)]
    with pytest.raises(DeadlineExceededError) as caught:
        run(generation, "search_many", searches, walk_of(clock, budget_ms=10))
    assert (len(parsed), caught.value.stage) == (10, "tokenize")


def test_others_may_go_first_between_two_filters_of_a_batch(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    monkeypatch.setattr(service.stages, "parse_filter", lambda raw, columns: parsed.append(raw) or parse_filter(raw, columns))
    searches = [Search("apple", filter={"number": {"$gte": number}}) for number in range(5)]
    steps = Stages(generation, walk_of(), VectorCache(0), Target()).search_many(searches)
    for number in range(5):
        assert isinstance(next(steps), Pause)
        assert len(parsed) == number + 1
    steps.close()


def test_searches_that_share_a_budget_are_not_each_planned_for_its_worst_case(generation: Generation) -> None:
    costs = Costs(generation.manifest.index, clock := ManualClock())
    key = search_key(generation.manifest.index.default_effort, None)
    for number in range(200):
        costs.observe("search", key, 30.0 if number % 20 == 0 else 1.0, Load.QUIET)
    slowed = replace(generation, costs=costs, planner=Planner(generation.manifest.index, costs, clock))
    alone = run(slowed, "search", Search("apple"), walk_of(clock, budget_ms=4.0))
    assert alone.plan.causes != ()
    many = run(slowed, "search_many", [Search("apple")] * 20, walk_of(clock, budget_ms=80.0))
    assert [result.plan.causes for result in many[:12]] == [()] * 12


def test_each_search_of_a_batch_teaches_what_it_took(generation: Generation) -> None:
    clock = ManualClock()
    slowed = hooked(generation, slow(clock, {"encode": 500.0, "filter": 2.0, "search": 20.0, "fetch": 7.0}))
    costs = Costs(generation.manifest.index, clock)
    searches = [Search(word, k=7, filter={"number": {"$gte": number}}) for number, word in enumerate(["apple", "bread"] * 5)]
    run(replace(slowed, costs=costs), "search_many", searches, walk_of(clock, budget_ms=1e6))
    learned = {(cost.stage, cost.key): cost.seconds for cost in costs.export() if cost.quantile == 0.5}
    key = search_key(generation.manifest.index.default_effort, "narrow")
    assert learned == {
        ("filter", WHOLE): pytest.approx(0.002, rel=0.15),
        ("search", key): pytest.approx(0.020, rel=0.15),
        ("fetch", fetch_key(7, True)): pytest.approx(0.007, rel=0.15),
    }


def test_what_filters_cost_that_leave_much_says_nothing_of_one_that_leaves_little(generation: Generation) -> None:
    index, clock = generation.manifest.index, ManualClock()
    costs = Costs(index, clock)
    for row in index.efforts:
        for _ in range(20):
            costs.observe("search", search_key(row.effort, "filtered"), 50.0, Load.QUIET)
            costs.observe("search", search_key(row.effort, "narrow"), 0.2, Load.QUIET)
    believing = replace(generation, costs=costs, planner=Planner(index, costs, clock))
    few = Search("apple", filter={"number": {"$lt": 20}})
    assert run(believing, "search", few, walk_of(clock, budget_ms=20)).plan.causes == ()


def test_no_time_for_the_least_effort_is_no_answer(generation: Generation) -> None:
    clock = ManualClock()
    planner = Planner(generation.manifest.index, generation.costs, clock)  # the generation's own tries it, twice a second
    planned = replace(hooked(generation, slow(clock, {"encode": 9.95})), planner=planner)
    with pytest.raises(DeadlineExceededError) as caught:
        run(planned, "search", Search("apple"), walk_of(clock, budget_ms=10))
    assert caught.value.stage == "search"


def test_a_search_that_the_engine_made_exact_gave_up_no_recall(generation: Generation) -> None:
    clock = ManualClock()
    slowed = hooked(generation, slow(clock, {"encode": 9.4}))
    few = Search("apple", filter={"number": {"$lt": 20}})
    plan = run(slowed, "search", few, walk_of(clock, budget_ms=10)).plan
    assert (plan.causes, plan.expected_recall) == (("deadline_fields",), 1.0)
