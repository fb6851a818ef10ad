"""Ids that come back, a caller who is watched, and headers that every answer carries."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from serving import Client, client_of, composed, hooked

from service.app import create_app

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", ["a", "order-17/attempt_2", "x" * 128, "4bf92f35.77b3:4da6+a=@"])
def test_a_well_formed_request_id_comes_back(client: Client, given: str) -> None:
    response = client.post("/search", {"query": "a"}, headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", "a\tb", "<script>", "ä", 'a"b', "a;b"])
def test_a_malformed_request_id_is_replaced(client: Client, given: str) -> None:
    response = client.get("/livez", headers={"X-Request-ID": given.encode("latin-1")})
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] != given


def test_request_ids_differ(client: Client) -> None:
    assert len({client.get("/livez").headers["x-request-id"] for _ in range(20)}) == 20


@pytest.mark.parametrize("path", ["/livez", "/nope", "/metrics"])
def test_a_trace_is_passed_on(client: Client, path: str) -> None:
    assert client.get(path, headers={"traceparent": TRACE}).headers["traceparent"] == TRACE


@pytest.mark.parametrize(
    "given", ["", "00-0-0-01", TRACE.upper(), TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), f"ff{TRACE[2:]}"]
)
def test_a_malformed_trace_is_not(client: Client, given: str) -> None:
    assert "traceparent" not in client.get("/livez", headers={"traceparent": given}).headers


def test_two_traces_are_none(client: Client) -> None:
    given = [("traceparent", TRACE), ("traceparent", TRACE.replace("4bf92f", "5bf92f"))]
    assert "traceparent" not in client.get("/livez", headers=given).headers


def test_server_timing_says_what_the_body_says(client: Client) -> None:
    response = client.post("/search", {"query": "a"})
    timings = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {name: float(value) for name, value in timings.items()} == response.json()["timings_ms"]


def test_a_caller_who_hangs_up_is_noticed_and_its_work_dropped(registry: Path) -> None:
    at_work, hung_up = threading.Event(), threading.Event()

    def hook(stage: str) -> None:
        if stage == "encode":
            at_work.set()
            assert hung_up.wait(10)

    async def hang_up(app: Any) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        body = iter([{"type": "http.request", "body": json.dumps({"query": "a"}).encode(), "more_body": False}])

        async def receive() -> dict[str, Any]:
            message = next(body, None)
            if message is None:
                assert await asyncio.to_thread(at_work.wait, 10)
                asyncio.get_running_loop().call_soon(hung_up.set)
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "headers": [], "query_string": b"", "scheme": "http"}
        await app({**scope, "raw_path": b"/search", "root_path": "", "http_version": "1.1"}, receive, send)
        return sent

    with composed(registry) as parts:
        parts.generations._slot.generation = hooked(parts.generations.current, hook)
        sent = asyncio.run(hang_up(create_app(parts)))
        value = parts.metrics.registry.get_sample_value
        assert value("scalingnote_dropped_total", {"cause": "gone", "stage": "search"}) == 1
        assert value("scalingnote_requests_total", {"route": "/search", "code": "499"}) == 1
        assert value("scalingnote_stage_seconds_count", {"stage": "fetch"}) == 0
        assert parts.limiter.in_flight == 0
        assert sent[0]["status"] == 499


def test_an_answer_that_is_in_time_is_not_taken_for_gone(registry: Path) -> None:
    with client_of(registry) as client:
        for _ in range(20):
            assert client.post("/search", {"query": "a"}).status_code == 200
        assert client.metric("scalingnote_dropped_total", cause="gone", stage="tokenize") == 0
