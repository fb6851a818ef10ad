"""API keys over HTTP: who is let in, what everybody else is told, and that none of their bodies is waited for."""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry
from serving import Client, assert_problem, client_of

from service.api.turnstile import presented
from service.app import create_app
from service.errors import OverloadedError
from service.keys.metrics import KeyMetrics
from service.keys.ring import KeyRing
from service.logs import configure

POSTS = {
    "/search": {"query": "apple"},
    "/search/batch": [{"query": "apple"}],
    "/embed": {"query": "apple"},
    "/v1/embeddings": {"input": "apple", "model": "any"},
}
PATIENT = {"default_timeout_ms": 30_000, "max_timeout_ms": 60_000}
KEYS = ("all", "searcher", "embedder", "slow", "over")


def keys_file(folder: Path) -> Path:
    """Keys that are their names."""
    over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    more: dict[str, dict[str, Any]] = {
        "searcher": {"scopes": ["search"], "expires_at": "2999-01-01T00:00:00Z"},
        "embedder": {"scopes": ["embed"]},
        "slow": {"rate_per_second": 2, "burst": 3},
        "over": {"expires_at": over},
    }
    lines = [{"name": key, "sha256": sha256(key.encode()).hexdigest(), **more.get(key, {})} for key in KEYS]
    path = folder / "api-keys"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def keyed(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service that wants keys."""
    with client_of(registry, api_keys_file=keys_file(tmp_path_factory.mktemp("keys")), **PATIENT) as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def paced(keyed: Client, tmp_path: Path, clock: ManualClock) -> Client:
    """The same with rates on a manual clock."""
    ring = KeyRing(keys_file(tmp_path), KeyMetrics(CollectorRegistry()), clock)
    parts = replace(keyed.parts, keys=ring)
    return Client(create_app(parts), parts)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", POSTS)
def test_a_key_lets_in_by_either_header(keyed: Client, path: str) -> None:
    for headers in (bearer("all"), {"Authorization": "bearer  all "}, {"X-API-Key": "all"}):
        assert keyed.post(path, POSTS[path], headers=headers).status_code == 200
    both = {**bearer("of-a-proxy"), "X-API-Key": "all"}
    assert keyed.post(path, POSTS[path], headers=both).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        bearer("all,all"),
        {"Authorization": "Basic YWxsOmFsbA=="},
        {"X-API-Key": ""},
        {"X-API-Key": "x" * 20_000},
        {"X-API-Key": sha256(b"all").hexdigest()},
        {**bearer("all"), "X-API-Key": "wrong"},
        bearer("over"),
        {"X-API-Key": b"\xff\xfe"},
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_without_a_known_key_nothing_is_answered(keyed: Client, headers: dict[str, Any]) -> None:
    for path in ("/search", "/search/batch", "/embed"):
        response = keyed.post(path, POSTS[path], headers=headers)
        assert_problem(response, 401, "key_unknown")
        assert response.headers["www-authenticate"] == "Bearer"
    error = keyed.post("/v1/embeddings", POSTS["/v1/embeddings"], headers=headers)
    assert (error.status_code, error.json()["error"]["code"]) == (401, "key_unknown")


@pytest.mark.parametrize(
    ("key", "forbidden"), [("searcher", ("/embed", "/v1/embeddings")), ("embedder", ("/search", "/search/batch"))]
)
def test_a_key_opens_what_it_is_for(keyed: Client, key: str, forbidden: tuple[str, ...]) -> None:
    for path, body in POSTS.items():
        response = keyed.post(path, body, headers=bearer(key))
        assert response.status_code == (403 if path in forbidden else 200)
        if path in forbidden and not path.startswith("/v1/"):
            assert f"the key {key} does not allow" in assert_problem(response, 403, "key_scope")["detail"]


def test_beyond_its_rate_a_key_is_told_when_to_come_back(paced: Client, clock: ManualClock) -> None:
    statuses = [paced.post("/search", POSTS["/search"], headers=bearer("slow")).status_code for _ in range(3)]
    assert statuses == [200] * 3
    for path in ("/search", "/embed"):
        response = paced.post(path, POSTS[path], headers=bearer("slow"))
        problem = assert_problem(response, 429, "key_rate_limited")
        assert (problem["retry_after_ms"], response.headers["retry-after"]) == (500.0, "1")
    openai = paced.post("/v1/embeddings", POSTS["/v1/embeddings"], headers=bearer("slow"))
    assert (openai.status_code, openai.json()["error"]["type"]) == (429, "rate_limit_error")
    assert paced.post("/search", POSTS["/search"], headers=bearer("all")).status_code == 200
    clock.advance_ms(problem["retry_after_ms"])
    assert paced.post("/search", POSTS["/search"], headers=bearer("slow")).status_code == 200
    assert paced.post("/search", POSTS["/search"], headers=bearer("slow")).status_code == 429


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search/batch", [{"query": "apple"}] * 21),
        ("/embed", {"queries": ["apple"] * 21}),
        ("/v1/embeddings", {"input": ["apple"] * 21, "model": "any"}),
    ],
)
def test_a_batch_costs_what_is_in_it(paced: Client, clock: ManualClock, path: str, body: Any) -> None:
    assert paced.post(path, body, headers=bearer("slow")).status_code == 200
    problem = assert_problem(paced.post("/search", POSTS["/search"], headers=bearer("slow")), 429, "key_rate_limited")
    assert math.isclose(problem["retry_after_ms"], (21 - 3 + 1) / 2 * 1000)
    clock.advance_ms(problem["retry_after_ms"] + 0.1)
    assert paced.post("/search", POSTS["/search"], headers=bearer("slow")).status_code == 200


def test_a_refusal_for_want_of_room_costs_a_key_nothing(paced: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OverloadedError("full", 10)

    monkeypatch.setattr(type(paced.parts.limiter), "knock", full)
    for _ in range(5):
        assert_problem(paced.post("/search", POSTS["/search"], headers=bearer("slow")), 429, "overloaded")
    monkeypatch.undo()
    assert paced.post("/search", POSTS["/search"], headers=bearer("slow")).status_code == 200


def test_what_came_of_requests_is_counted_by_name_and_strangers_make_no_series(keyed: Client) -> None:
    def count(key: str, outcome: str) -> float:
        return keyed.metric("scalingnote_api_key_requests_total", key=key, outcome=outcome)

    asked = [("all", "admitted", bearer("all")), ("over", "expired", bearer("over")), ("", "missing", {})]
    asked += [("", "unknown", bearer(f"guess-{number}")) for number in range(3)]
    for key, outcome, headers in asked:
        before = count(key, outcome)
        keyed.post("/search", POSTS["/search"], headers=headers)
        assert count(key, outcome) == before + 1
    before = count("searcher", "scope")
    keyed.post("/embed", POSTS["/embed"], headers=bearer("searcher"))
    assert count("searcher", "scope") == before + 1
    text = keyed.get("/metrics").text
    assert "guess" not in text
    assert {line.split('key="')[1].split('"')[0] for line in text.splitlines() if "api_key_requests_total{" in line} == {
        *KEYS,
        "",
    }


@pytest.mark.usefixtures("restored_logging")
def test_the_access_log_has_the_keys_name_and_never_the_key(registry: Path, tmp_path: Path) -> None:
    stream, secret = io.StringIO(), "snk_" + "x" * 43
    file = tmp_path / "keys"
    file.write_text(json.dumps({"name": "shop", "sha256": sha256(secret.encode()).hexdigest()}))
    with client_of(registry, api_keys_file=file, access_log_sample=1.0, **PATIENT) as client:
        configure("info", "json", stream)
        for headers in (bearer(secret), bearer("wrong-key"), {}):
            client.post("/search", POSTS["/search"], headers=headers)
        client.get("/livez")
    lines = [json.loads(line) for line in stream.getvalue().splitlines() if '"event": "request"' in line]
    assert [(line["route"], line["status"], line.get("key")) for line in lines] == [
        ("/search", 200, "shop"),
        ("/search", 401, None),
        ("/search", 401, None),
        ("/livez", 200, None),
    ]
    assert secret not in stream.getvalue()
    assert "wrong-key" not in stream.getvalue()


def test_no_key_is_asked_for_where_no_file_is_named(client: Client) -> None:
    assert client.parts.keys is None
    assert client.post("/search", POSTS["/search"], headers=bearer("whatever")).status_code == 200


def test_what_is_no_search_needs_no_key(keyed: Client) -> None:
    for path in ("/", "/livez", "/readyz", "/metrics", "/info", "/openapi.json"):
        assert keyed.get(path).status_code == 200


def test_a_strangers_body_is_not_received(keyed: Client) -> None:
    async def ask() -> int:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            pytest.fail("the body was asked for")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "headers": [], "query_string": b"", "scheme": "http"}
        await keyed.app(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(ask()) == 401


def test_the_key_is_what_stands_behind_bearer_or_in_its_own_header() -> None:
    assert presented([]) == b""
    assert presented([(b"authorization", b"Bearer a"), (b"x-api-key", b" b ")]) == b"b"
    assert presented([(b"x-api-key", b"b"), (b"authorization", b"Bearer a")]) == b"b"
    assert presented([(b"authorization", b"BEARER  a")]) == b"a"
    assert presented([(b"authorization", b"Basic a"), (b"cookie", b"x-api-key=a")]) == b""


def test_the_document_says_that_a_key_may_be_needed(client: Client) -> None:
    document = client.get("/openapi.json").json()
    for path in POSTS:
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"key": []}, {"key_header": []}, {}]
        assert {"401", "403", "429"} <= set(operation["responses"])
    schemes = document["components"]["securitySchemes"]
    assert (schemes["key"]["scheme"], schemes["key_header"]["name"]) == ("bearer", "X-API-Key")
