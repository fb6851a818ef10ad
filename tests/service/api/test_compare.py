"""Operators' searches of open snapshots, held to numpy's exact search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import WORDS, make_oracle, make_snapshot
from serving import TOKEN, Client, assert_problem, client_of, tokens_file

from service.api.admin_schemas import CompareResponse
from service.api.ops_schemas import HistoryResponse
from service.generation import Generation, GenerationOptions, open_generation
from snapshot.layout import Layout
from snapshot.registry import Registry

BEARER = {"Authorization": f"Bearer {TOKEN}"}
QUERIES = [" ".join(WORDS[i : i + 2]) for i in range(0, 30, 3)]
ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def ids(folder: Path) -> list[str]:
    made = [make_snapshot(folder, rows=ROWS, kind="hnsw", seed=seed).root.name for seed in (1, 2, 3)]
    Registry(folder).activate(made[0], "first", who="tests")
    return made


@pytest.fixture(scope="module")
def operator(folder: Path, ids: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The second one serves, the first one is kept open, the third one is not open."""
    tokens = tokens_file(tmp_path_factory.mktemp("tokens"))
    with client_of(folder, admin_tokens_file=tokens) as client:
        client.parts.generations.replace(opened(Layout(folder / ids[1])))
        assert (client.parts.generations.serving, client.parts.generations.former) == (ids[1], ids[0])
        yield client


def opened(layout: Layout) -> Generation:
    return open_generation(layout, GenerationOptions(batching=False), lambda _: None)


def compare(client: Client, snapshot: str, **body: Any) -> dict[str, Any]:
    response = client.post(f"/snapshots/{snapshot}/search", body, headers=BEARER)
    assert response.status_code == 200, response.text
    CompareResponse.model_validate_json(response.content)
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("place", [0, 1], ids=["kept open", "serving"])
def test_ranks_and_recall_are_those_of_exact_search(operator: Client, ids: list[str], place: int) -> None:
    oracle, seen = make_oracle(ROWS, seed=place + 1), 0
    for query in QUERIES:
        answer = compare(operator, ids[place], query=query, k=10)
        order = [f"doc-{row}" for row in oracle.rows([query], ROWS)[0]]
        shown = [*answer["hits"], *answer["missed"]]
        assert [hit["exact_rank"] for hit in shown if hit["exact_rank"]] == [
            order.index(hit["id"]) + 1 for hit in shown if hit["exact_rank"]
        ]
        assert {hit["id"] for hit in shown} >= set(order[:10])
        assert answer["recall"] == pytest.approx(len({hit["id"] for hit in answer["hits"]} & set(order[:10])) / 10)
        assert [hit["rank"] for hit in shown] == [*range(1, 11), *[None] * len(answer["missed"])]
        seen += len(shown)
    assert seen >= 10 * len(QUERIES)


def test_what_served_before_and_what_serves_are_marked_open(operator: Client, ids: list[str]) -> None:
    rows = operator.get("/snapshots", headers=BEARER).json()["snapshots"]
    assert {row["id"]: row["open"] for row in rows} == {ids[0]: True, ids[1]: True, ids[2]: False}


def test_what_is_not_open_is_refused_with_what_is(operator: Client, ids: list[str]) -> None:
    problem = assert_problem(operator.post(f"/snapshots/{ids[2]}/search", {"query": "apple"}, headers=BEARER), 404, "not_found")
    assert ids[0] in problem["detail"]
    assert ids[1] in problem["detail"]


def test_a_filter_holds_for_both_searches(operator: Client, ids: list[str]) -> None:
    answer = compare(operator, ids[1], query="apple bread", k=20, filter={"kind": "toy"})
    assert {hit["fields"]["kind"] for hit in [*answer["hits"], *answer["missed"]]} == {"toy"}


def test_every_effort_of_the_table_may_be_asked_for_and_no_other(operator: Client, ids: list[str]) -> None:
    index = operator.get("/info").json()["snapshot"]["index"]
    for row in index["efforts"]:
        answer = compare(operator, ids[1], query="apple bread", effort=row["effort"])
        assert (answer["effort"], answer["expected_recall"]) == (row["effort"], row["recall_at_10"])
    assert compare(operator, ids[1], query="apple bread")["effort"] == index["default_effort"]
    wrong = operator.post(f"/snapshots/{ids[1]}/search", {"query": "apple", "effort": 12345}, headers=BEARER)
    assert assert_problem(wrong, 422, "request_invalid")["errors"][0]["path"] == "effort"


@pytest.mark.parametrize("body", [{"query": " "}, {"query": "a", "k": 5000}, {"query": "a", "filter": {"nope": 1}}, {"k": 1}])
def test_what_search_would_refuse_is_refused(operator: Client, ids: list[str], body: dict[str, Any]) -> None:
    assert_problem(operator.post(f"/snapshots/{ids[1]}/search", body, headers=BEARER), 422, "request_invalid")


def test_without_a_token_nothing_is_searched(operator: Client, ids: list[str]) -> None:
    assert_problem(operator.post(f"/snapshots/{ids[1]}/search", {"query": "apple"}), 401, "unauthorized")


def test_the_history_is_served_without_a_token_and_holds_no_query(operator: Client) -> None:
    assert operator.post("/search", {"query": "a-secret-word"}).status_code == 200
    operator.parts.history.sample()
    response = operator.get("/history")
    history = HistoryResponse.model_validate_json(response.content)
    assert history.samples[-1].requests_per_second > 0
    assert "a-secret-word" not in response.text
