"""One error shape on every route, whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from serving import TOKEN, Client, assert_problem, client_of, composed

from service.app import create_app
from service.errors import OverloadedError

POSTS = {
    "/search": {"query": "a"},
    "/search/batch": [{"query": "a"}],
    "/embed": {"query": "a"},
    "/snapshots/{snapshot_id}/activate": {},
    "/snapshots/rollback": {},
    "/snapshots/{snapshot_id}/try": {},
    "/snapshots/end-trial": {},
    "/snapshots/{snapshot_id}/search": {"query": "a"},
}
PLAIN = ("/metrics", "/snapshots/worst-queries")
"""Their answers are no JSON."""


def test_every_json_route_is_in_the_table(client: Client) -> None:
    routes = {route.path for route in client.app.routes if isinstance(route, APIRoute) and "POST" in route.methods}
    assert routes == {*POSTS, "/v1/embeddings"}


@pytest.mark.parametrize("path", ["/nope", "/search/", "/search/nope", "/console/../settings.py", "/snapshots/a/b/c", "/%00"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_no_such_path(client: Client, method: str, path: str) -> None:
    assert_problem(client.request(method, path), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_no_such_method(client: Client, method: str) -> None:
    for path in POSTS:
        response = client.request(method, path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
    for path in ("/livez", "/metrics", "/info", "/", "/snapshots"):
        if method != "GET":
            response = client.request(method, path)
            assert_problem(response, 405, "method_not_allowed")
            assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", POSTS)
def test_wrong_bodies(client: Client, path: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for content in (b"{", b"NaN", b"\xff\xfe", b'{"no such key": 1}'):
        assert_problem(client.post(path, content=content, headers=headers), 422, "request_invalid")
    assert_problem(client.post(path, content=b" " * 2_000_000, headers=headers), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/search", "/search/batch", "/embed"])
def test_overload_says_when_to_come_back(registry: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def refuse(*_: Any) -> None:
        raise OverloadedError("full", retry_after_ms=2345.67)

    with client_of(registry) as client:
        monkeypatch.setattr(type(client.parts.limiter), "acquire", refuse)
        response = client.post(path, POSTS[path])
        assert assert_problem(response, 429, "overloaded")["retry_after_ms"] == 2345.7
        assert response.headers["retry-after"] == "3"
        error = client.post("/v1/embeddings", {"input": "a", "model": "m"})
        assert (error.status_code, error.json()["error"]["type"]) == (429, "rate_limit_error")


def test_a_fault_of_the_service_is_a_problem_too(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(registry) as client:
        generation = client.parts.generations.current
        assert generation is not None
        monkeypatch.setattr(type(generation.engine), "search", lambda *_: 1 / 0)
        response = client.post("/search", {"query": "a secret"})
        problem = assert_problem(response, 500, "internal")
        assert "secret" not in response.text
        assert problem["request_id"] in problem["detail"]
        assert client.metric("scalingnote_unhandled_errors_total") == 1
        assert client.metric("scalingnote_requests_total", route="/search", code="500") == 1
        assert client.parts.limiter.in_flight == 0
        assert client.post("/embed", {"query": "a"}).status_code == 200


def test_every_answer_that_a_route_declares_is_described(registry: Path) -> None:
    with composed(registry) as parts:
        document = create_app(parts).openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                media = "application/json" if path.startswith("/v1/") or status < "400" else "application/problem+json"
                if path not in PLAIN:
                    assert list(response["content"]) == [media], (path, status)
    search = document["paths"]["/search"]["post"]
    assert set(search["responses"]) == {"200", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504", "default"}
    assert search["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/SearchBody"}
    assert {"Request-Timeout-Ms", "X-Request-ID"} <= {parameter["name"] for parameter in search["parameters"]}
    assert document["paths"]["/snapshots"]["get"]["security"] == [{"bearer": []}]


def test_the_document_declares_what_is_answered_and_nothing_else(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in str(document)
    embeddings = document["paths"]["/v1/embeddings"]["post"]["responses"]
    assert set(embeddings) == {"200", "400", "401", "403", "408", "413", "415", "429", "500", "503", "504", "default"}
    for name, body in (("/search", {"query": "a"}), ("/v1/embeddings", {"input": "a", "model": "m"}), ("/livez", None)):
        method = "get" if body is None else "post"
        response = client.request(method.upper(), name, json=body)
        declared = document["paths"][name][method]["responses"]["200"]["headers"]
        assert {header.lower() for header in declared} == set(response.headers) & {"x-request-id", "server-timing"}
    responses = [
        response for path in document["paths"].values() for one in path.values() for response in one["responses"].items()
    ]
    assert all(("Retry-After" in response["headers"]) == (status in ("429", "503")) for status, response in responses)
    assert "urn:scalingnote:problem:" in document["components"]["schemas"]["Problem"]["properties"]["type"]["description"]


@pytest.mark.parametrize("path", ["/", "/console/console.js", "/livez", "/readyz", "/metrics", "/info", "/openapi.json"])
def test_head_is_get_without_its_body(client: Client, path: str) -> None:
    got, asked = client.get(path), client.request("HEAD", path)
    assert (asked.status_code, asked.headers["content-type"]) == (200, got.headers["content-type"])


def test_head_of_an_operators_route_needs_a_token_too(client: Client) -> None:
    assert client.request("HEAD", "/snapshots").status_code == 401
