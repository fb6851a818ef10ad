"""What every answer says to browsers, whatever the route and whatever came of the request."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from serving import TOKEN, Client, client_of

from service.errors import CrowdedError, HeadersTooLargeError, HeaderTimeoutError, MalformedRequestError
from service.refusal import refusal

ID = "20260101T000000Z-00000000"


def paths(client: Client) -> list[tuple[str, str]]:
    """Every method and path, with something in the place of each parameter."""
    routes = [route for route in client.app.routes if isinstance(route, APIRoute)]
    found = [
        (method, route.path.replace("{snapshot_id}", ID).replace("{other_id}", ID))
        for route in routes
        for method in route.methods
    ]
    assert len(found) > 60
    return found


def check(headers: httpx.Headers, where: str) -> None:
    assert headers["x-content-type-options"] == "nosniff", where
    policies = headers.get_list("content-security-policy")
    assert len(policies) == 1, where
    directives = dict(part.strip().split(" ", 1) for part in policies[0].split(";"))
    assert (directives["default-src"], directives["frame-ancestors"]) == ("'none'", "'none'"), where
    assert "unsafe" not in policies[0], where
    assert headers["cache-control"] in ("no-store", "no-cache"), where
    assert headers["x-request-id"], where
    assert "server" not in headers, where
    assert "x-powered-by" not in headers, where
    assert not [name for name in headers if name.startswith("access-control-")], where


@pytest.mark.parametrize("token", [None, TOKEN])
def test_every_route_whatever_it_answers(client: Client, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    seen = set()
    for method, path in paths(client):
        for body in (None, {"query": "apple"}):
            if method == "POST" or body is None:
                response = client.request(method, path, headers=headers, json=body)
                seen.add(response.status_code)
                check(response.headers, f"{method} {path} {response.status_code}")
    assert {200, 422, 401 if token is None else 404} <= seen


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nope"), ("DELETE", "/search"), ("OPTIONS", "/"), ("GET", "/console/../x")]
)
def test_what_no_route_takes(client: Client, method: str, path: str) -> None:
    response = client.request(method, path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert response.status_code in (404, 405)
    check(response.headers, path)


def test_faults_refusals_and_answers_of_a_service_with_keys(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(json.dumps({"name": "a", "sha256": sha256(b"a").hexdigest(), "rate_per_second": 0.001, "burst": 2}))
    with client_of(registry, api_keys_file=file, default_timeout_ms=30_000, max_timeout_ms=60_000) as client:
        generation = client.parts.generations.current
        assert generation is not None
        monkeypatch.setattr(type(generation.engine), "search", lambda *_: 1 / 0)
        for key, status in (("b", 401), ("a", 500), ("a", 500), ("a", 429)):
            response = client.post("/search", {"query": "apple"}, headers={"X-API-Key": key})
            assert response.status_code == status
            check(response.headers, f"{status}")


@pytest.mark.parametrize("error", [MalformedRequestError, HeaderTimeoutError, HeadersTooLargeError, CrowdedError])
def test_what_reaches_no_application(error: type[MalformedRequestError]) -> None:
    head, _, body = refusal(error("because")).partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = httpx.Headers([(name, value) for name, value in lines])
    check(headers, error.__name__)
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    assert ("retry-after" in headers) == (error is CrowdedError)
