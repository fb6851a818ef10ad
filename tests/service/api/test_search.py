"""POST /search and /search/batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crew import WAIT_SECONDS
from make_snapshot import make_oracle
from manual_clock import ManualClock
from serving import Client, assert_problem, client_of, hooked, slow

from service.api.schemas import BatchResponse, SearchResponse
from service.deadline import Deadline

ORACLE = make_oracle(rows=200)


def nearest(query: str, count: int) -> list[str]:
    return [f"doc-{row}" for row in ORACLE.rows([query], count)[0]]


def test_a_search_answers_with_the_nearest_documents(client: Client) -> None:
    response = client.post("/search", {"query": "apple bread", "k": 3, "exact": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = SearchResponse.model_validate_json(response.content, strict=True)
    assert [hit.id for hit in answer.hits] == nearest("apple bread", 3)
    assert answer.hits[0].fields is not None
    assert answer.hits[0].fields["text"] == ORACLE.texts[int(answer.hits[0].id[4:])]
    assert answer.snapshot == client.parts.generations.serving
    assert answer.degraded is None
    assert answer.request_id == response.headers["x-request-id"]
    assert list(answer.timings_ms) == ["queue", "tokenize", "encode", "search", "fetch", "total"]
    assert set(response.json()) == {"hits", "snapshot", "degraded", "truncated", "timings_ms", "request_id"}


def test_ten_hits_unless_asked_otherwise(client: Client) -> None:
    assert len(client.post("/search", {"query": "apple"}).json()["hits"]) == 10


def test_null_stands_for_the_default(client: Client) -> None:
    body = {"query": "apple", "filter": None, "fields": None, "timeout_ms": None, "min_score": None}
    assert client.post("/search", body).status_code == 200


def test_a_filter_is_obeyed(client: Client) -> None:
    wanted = {"kind": "toy", "price": {"$lt": 20}, "$or": [{"sold": True}, {"number": {"$in": [5, 11]}}]}
    hits = client.post("/search", {"query": "lamp", "k": 50, "filter": wanted}).json()["hits"]
    rows = range(200)
    matching = {f"doc-{r}" for r in rows if r % 3 == 2 and r % 7 and r / 4 < 20 and (r % 2 == 0 or r in (5, 11))}
    assert {hit["id"] for hit in hits} == matching


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_the_content_type_does_not_matter(client: Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    assert client.post("/search", content=b'{"query": "apple"}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "query"),
        (b"{}", "query"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"apple"', "body"),
        (b"{", "body"),
        (b'{"query": "a",}', "body"),
        (b'\xff{"query": "a"}', "body"),
        (b'{"query": "\xff"}', "body"),
        (b'{"query": "\\ud800"}', "body"),
        (b'{"query": "a", "min_score": NaN}', "body"),
        (b'{"query": "a", "timeout_ms": Infinity}', "body"),
        (b'{"query": "a", "filter": {"price": -Infinity}}', "body"),
        (b'{"query": "a", "timeout_ms": 1e999}', "timeout_ms"),
        (b'{"query": "a", "filter": {"price": 1e999}}', "filter.price"),
        (b"[" * 5000, "body"),
        (b'{"query": ""}', "query"),
        (b'{"query": " \\t\\n"}', "query"),
        (b'{"query": 5}', "query"),
        (b'{"query": ["a"]}', "query"),
        (b'{"query": null}', "query"),
        (b'{"query": "a", "k": 0}', "k"),
        (b'{"query": "a", "k": -1}', "k"),
        (b'{"query": "a", "k": 1001}', "k"),
        (b'{"query": "a", "k": "5"}', "k"),
        (b'{"query": "a", "k": 5.5}', "k"),
        (b'{"query": "a", "k": true}', "k"),
        (b'{"query": "a", "k": 99999999999999999999999}', "k"),
        (b'{"query": "a", "offset": -1}', "offset"),
        (b'{"query": "a", "offset": 9991}', "offset"),
        (b'{"query": "a", "timeout_ms": 0}', "timeout_ms"),
        (b'{"query": "a", "timeout_ms": "50"}', "timeout_ms"),
        (b'{"query": "a", "exact": 1}', "exact"),
        (b'{"query": "a", "fields": "kind"}', "fields"),
        (b'{"query": "a", "fields": [1]}', "fields.0"),
        (b'{"query": "a", "fields": ["colour"]}', "fields.0"),
        (b'{"query": "a", "filter": []}', "filter"),
        (b'{"query": "a", "filter": {"colour": "red"}}', "filter.colour"),
        (b'{"query": "a", "filter": {"$and": [{"price": {"$lt": "x"}}]}}', "filter.$and.0.price.$lt"),
        (b'{"query": "a", "limit": 3}', "limit"),
    ],
)
def test_a_body_that_means_nothing_is_refused_by_path(client: Client, body: bytes, path: str) -> None:
    problem = assert_problem(client.post("/search", content=body), 422, "request_invalid")
    assert path in [error["path"] for error in problem["errors"]]


@pytest.mark.parametrize("query", ["\x00", "a\x00b", "\u200b", "🦊" * 100, "a" * 10_000, "ß\u0301\u202e", "{text}"])
def test_any_text_is_a_query(client: Client, query: str) -> None:
    response = client.post("/search", {"query": query, "k": 1})
    assert response.status_code == 200
    assert len(response.json()["hits"]) == 1


def test_a_long_query_is_marked_as_truncated(client: Client) -> None:
    assert client.post("/search", {"query": "apple " * 50}).json()["truncated"] is True
    assert client.post("/search", {"query": "apple"}).json()["truncated"] is False


def test_wrong_bodies_never_show_the_query(client: Client) -> None:
    text = client.post("/search", {"query": "a secret", "k": 0, "filter": {"kind": 7}}).text
    assert "secret" not in text


def test_a_batch_is_answered_in_order(client: Client) -> None:
    queries = ["zebra", "apple bread", "lamp"]
    response = client.post("/search/batch", [{"query": query, "k": 4, "exact": True} for query in queries])
    answer = BatchResponse.model_validate_json(response.content, strict=True)
    assert [[hit.id for hit in result.hits] for result in answer.results] == [nearest(query, 4) for query in queries]
    assert set(response.json()) == {"results", "snapshot", "timings_ms", "request_id"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "body"),
        ({"query": "a"}, "body"),
        ([{"query": "a"}, {"query": ""}], "1.query"),
        ([{"query": "a"}, {"query": "b", "k": 5000}], "1.k"),
        ([{"query": "a"}, {"query": "b", "filter": {"colour": 1}}], "1.filter.colour"),
        ([{"query": "a"}, 5], "1"),
        ([{"query": "a"}] * 257, "body"),
        ([{"query": "a", "k": 1000}] * 11, "body"),
    ],
)
def test_a_bad_item_is_named_by_its_index(client: Client, body: Any, path: str) -> None:
    problem = assert_problem(client.post("/search/batch", body), 422, "request_invalid")
    assert path in [error["path"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("in_body", "headers", "budget"),
    [
        (None, {}, 1000),
        (80, {}, 80),
        (80, {"Request-Timeout-Ms": "60"}, 60),
        (None, {"Request-Timeout-Ms": "60.5", "x-envoy-expected-rq-timeout-ms": "70"}, 60.5),
        (None, {"x-envoy-expected-rq-timeout-ms": "70"}, 70),
        (1e9, {}, 10_000),
        (None, {"Request-Timeout-Ms": "9" * 400}, 10_000),
        (None, {"Request-Timeout-Ms": "70.50000000000000"}, 70.5),
        (None, [("Request-Timeout-Ms", "60"), ("Request-Timeout-Ms", "70")], 60),
        (None, [("Request-Timeout-Ms", "70"), ("Request-Timeout-Ms", "60")], 60),
        (None, {"Request-Timeout-Ms": "70, 60,80"}, 60),
        (None, {"Request-Timeout-Ms": "70," * 15 + "60"}, 60),
        (None, {"Request-Timeout-Ms": "70, 80", "x-envoy-expected-rq-timeout-ms": "90 ,60"}, 60),
    ],
)
def test_the_least_budget_wins(
    registry: Path, in_body: float | None, headers: dict[str, str] | list[tuple[str, str]], budget: float
) -> None:
    clock = ManualClock()
    with client_of(registry, clock) as client:
        generation = client.parts.generations.current
        client.parts.generations._slot.generation = hooked(generation, slow(clock, {"encode": budget + 1}))
        body = {"query": "a"} if in_body is None else {"query": "a", "timeout_ms": in_body}
        response = client.post("/search", body, headers=headers)
        problem = assert_problem(response, 504, "deadline_exceeded")
        assert f"the budget of {budget:g} ms" in problem["detail"]
        assert problem["spent_ms"]["encode"] == pytest.approx(budget + 1)
        assert f"encode;dur={budget + 1:g}" in response.headers["server-timing"]
        client.parts.generations._slot.generation = hooked(generation, slow(clock, {"encode": budget - 1}))
        assert client.post("/search", body, headers=headers).status_code == 200
        assert client.metric("scalingnote_over_budget_total", route="/search") == 1


def test_a_replica_too_slow_for_a_budget_sends_the_balancer_elsewhere_at_once(registry: Path) -> None:
    clock = ManualClock()
    with client_of(registry, clock) as client:
        client.parts.generations._slot.generation = hooked(client.parts.generations.current, slow(clock, {"search": 100}))
        ask, elsewhere = {"query": "a", "timeout_ms": 50}, {"X-Retry-Elsewhere": "1"}
        within = Deadline.after(WAIT_SECONDS * 1000, time.monotonic(), time.monotonic)
        # Late until each effort is known to be: costs are learned by the real clock.
        answers = (client.post("/search", ask, headers=elsewhere) for _ in iter(within.passed, True))
        problem = assert_problem(next(answer for answer in answers if answer.status_code != 504), 503, "too_slow")
        assert problem["spent_ms"]["total"] < 10
        assert client.metric("scalingnote_sent_elsewhere_total", route="/search") == 1
        before = client.parts.metrics.vitals()
        assert_problem(client.post("/search", ask), 504, "deadline_exceeded")
        client.parts.generations._slot.generation = hooked(client.parts.generations.current, slow(clock, {"encode": 60}))
        late = client.post("/search", {"query": "a", "timeout_ms": 150}, headers=elsewhere)
        assert_problem(late, 504, "deadline_exceeded")  # nothing is left for another one
        client.post("/search", ask, headers=elsewhere)
        since = client.parts.metrics.vitals() - before
        assert (since.answers, since.late, client.metric("scalingnote_sent_elsewhere_total", route="/search")) == (3, 3, 2)
        assert sorted(tally for tally in since.kinds.values() if tally.answers) == [(1, 1), (2, 2)]  # of 150 ms, and of 50


def test_the_least_budget_of_a_batch_holds_for_all(registry: Path) -> None:
    clock = ManualClock()
    with client_of(registry, clock) as client:
        client.parts.generations._slot.generation = hooked(client.parts.generations.current, slow(clock, {"encode": 31}))
        response = client.post("/search/batch", [{"query": "a"}, {"query": "b", "timeout_ms": 30}])
        assert "the budget of 30 ms" in assert_problem(response, 504, "deadline_exceeded")["detail"]


@pytest.mark.parametrize(
    "value", ["abc", "-1", "0", "1e3", "nan", "inf", "", "5 ms", "60, ", "60, soon", "60; 70", "60," * 20_000 + "60"]
)
def test_a_timeout_header_that_is_no_number_is_refused(client: Client, value: str) -> None:
    response = client.post("/search", {"query": "a"}, headers={"Request-Timeout-Ms": value})
    assert assert_problem(response, 422, "request_invalid")["errors"][0]["path"] == "header.Request-Timeout-Ms"


def test_an_answer_with_less_effort_says_so(registry: Path) -> None:
    clock = ManualClock()
    with client_of(registry, clock) as client:
        client.parts.generations._slot.generation = hooked(client.parts.generations.current, slow(clock, {"encode": 9.3}))
        answer = client.post("/search", {"query": "a", "timeout_ms": 10}).json()
        assert answer["degraded"] == {
            "causes": ["deadline_effort", "deadline_fields"],
            "expected_recall": pytest.approx(1.0, abs=0.01),
        }
        assert [hit["fields"] for hit in answer["hits"]] == [None] * 10


def test_scores_are_cosines(client: Client) -> None:
    hits = client.post("/search", {"query": "apple", "k": 5, "exact": True}).json()["hits"]
    expected = np.sort((ORACLE.encode(["apple"]) @ ORACLE.documents.T)[0])[::-1][:5]
    np.testing.assert_allclose([hit["score"] for hit in hits], expected, atol=1e-5)


@pytest.mark.parametrize("key", ["k", "offset", "timeout_ms", "min_score"])
@pytest.mark.parametrize("digits", [400, 4299, 4300, 5000])
def test_a_huge_number_is_refused_by_path(client: Client, key: str, digits: int) -> None:
    for path, body in (("/search", b'{"query": "a", "%s": %s}'), ("/search/batch", b'[{"query": "a", "%s": %s}]')):
        response = client.post(path, content=body % (key.encode(), b"9" * digits))
        assert_problem(response, 422, "request_invalid")


def test_what_no_user_asks_is_answered_and_counted_and_no_live_query(registry: Path) -> None:
    headers = {"x-synthetic-request": "1"}
    with client_of(registry, live_recall_share=1.0) as client:
        assert client.post("/search", {"query": "apple"}, headers=headers).json()["hits"]
        assert client.post("/search/batch", [{"query": "bread"}, {"query": "drum"}], headers=headers).status_code == 200
        assert client.metric("scalingnote_requests_total", route="/search", code="200") == 1
        assert client.metric("scalingnote_recent_queries") == 0
        assert client.post("/search", {"query": "lamp"}).status_code == 200
        assert client.metric("scalingnote_recent_queries") == 1
        assert [sample.search.query for sample in client.parts.live._waiting] == ["lamp"]
