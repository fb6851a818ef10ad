"""Health, metrics and info: before, while and after a snapshot serves."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from make_snapshot import make_snapshot
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from serving import Client, assert_problem, client_of, make_registry, tokens_file

from service.api.ops_schemas import InfoResponse, LiveResponse, ReadyResponse
from service.swap import SwapState
from snapshot.registry import Desire, Registry


def test_a_reason_that_names_a_file_whose_name_is_no_text_is_told(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    (tmp_path / str(registry.current()) / os.fsdecode(b"report-\xff.md")).write_bytes(b"x")
    with client_of(tmp_path) as client:
        assert client.get("/info").json()["last_error"]["code"] == "file_extra"
        assert "report-\\udcff.md" in assert_problem(client.get("/readyz"), 503, "no_snapshot")["detail"]


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
def test_ready_while_a_snapshot_serves(client: Client, path: str) -> None:
    answer = ReadyResponse.model_validate_json(client.get(path).content, strict=True)
    assert answer.snapshot == client.parts.generations.serving
    assert answer.checks is None
    assert client.get(f"{path}?verbose").json()["checks"]["draining"] == "no"


def test_without_a_snapshot_the_process_lives_and_says_what_to_do(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        LiveResponse.model_validate_json(client.get("/livez").content, strict=True)
        problem = assert_problem(client.get("/readyz"), 503, "no_snapshot")
        assert "python -m offline run" in problem["detail"]
        assert "python -m snapshot activate" in problem["detail"]
        for path, body in (("/search", {"query": "a"}), ("/search/batch", [{"query": "a"}]), ("/embed", {"query": "a"})):
            assert_problem(client.post(path, body), 503, "no_snapshot")
        info = InfoResponse.model_validate_json(client.get("/info").content)
        assert (info.snapshot, info.serving, info.proof) == (None, None, None)


def test_a_refused_snapshot_is_not_ready_and_says_why(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=20)
    Registry(tmp_path).activate(layout.root.name, "for a test")
    layout.model.write_bytes(b"damaged")
    with client_of(tmp_path) as client:
        detail = assert_problem(client.get("/readyz"), 503, "no_snapshot")["detail"]
        assert detail.startswith("hash_mismatch: ")
        assert "model.onnx" in detail
        failure = client.get("/info").json()["last_error"]
        assert (failure["snapshot"], failure["code"], failure["attempts"]) == (layout.root.name, "hash_mismatch", 1)
        assert client.metric("scalingnote_swap_failures_total", code="hash_mismatch") == 1


def test_published_but_not_activated_names_the_latest_and_the_command(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        made = [make_snapshot(tmp_path, rows=20, seed=seed).root.name for seed in (1, 2)]
        client.parts.follower.converge()
        detail = assert_problem(client.get("/readyz"), 503, "no_snapshot")["detail"]
        assert f"python -m snapshot activate {max(made)} --registry {tmp_path}" in detail


def test_while_a_snapshot_loads_it_says_so(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        client.parts.generations.enter(SwapState.PROVING)
        assert "is being loaded (proving)" in assert_problem(client.get("/readyz"), 503, "no_snapshot")["detail"]


def test_a_draining_service_is_alive_but_not_ready(registry: Path) -> None:
    with client_of(registry) as client:
        client.parts.limiter.drain()
        assert client.get("/livez").status_code == 200
        response = client.get("/readyz")
        assert_problem(response, 503, "draining")
        assert response.headers["connection"] == "close"
        assert_problem(client.post("/search", {"query": "a"}), 503, "draining")


def test_info_tells_what_runs(client: Client) -> None:
    response = client.get("/info")
    info = InfoResponse.model_validate_json(response.content)
    assert info.snapshot is not None
    assert info.snapshot["id"] == info.desired == info.serving
    assert [column["name"] for column in info.snapshot["documents"]["columns"] if column["filterable"]]
    assert info.snapshot["index"]["kind"] == "hnsw"
    assert [row["effort"] for row in info.snapshot["index"]["efforts"]] == [16, 64]
    assert info.settings["max_k"] == 1000
    assert info.proof is not None
    assert info.proof.recall > 0.9
    assert info.proof.failure is None


def test_info_tells_why_the_last_proof_failed(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    with client_of(tmp_path, proof_interval_seconds=1e-3) as client:
        layout = registry.layout(client.get("/info").json()["serving"])
        layout.tokenizer.write_bytes(layout.tokenizer.read_bytes() + b" ")
        client.parts.follower.converge()
        info = InfoResponse.model_validate_json(client.get("/info").content)
        assert info.proof is not None
        assert info.proof.failure is not None
        assert info.proof.failure.code == "hash_mismatch"
        assert layout.tokenizer.name in info.proof.failure.reason


def test_metrics_and_long_bodies_do_not_wait_for_a_disk_that_stands_still(client: Client) -> None:
    back = threading.Event()

    async def ask() -> list[int]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        looking = loop.run_in_executor(None, back.wait)
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as caller, asyncio.timeout(30):
            metrics = await caller.get("/metrics")
            batch = await caller.post("/search/batch", json=[{"query": "apple " * 150, "timeout_ms": 10_000}] * 100)
        back.set()
        await looking
        return [metrics.status_code, batch.status_code]

    try:
        assert asyncio.run(ask()) == [200, 200]
    finally:
        back.set()


def test_metrics_parse_in_both_formats(client: Client) -> None:
    text = client.get("/metrics")
    names = {family.name for family in parse_text(text.text)}
    assert {"scalingnote_requests", "scalingnote_snapshot_info", "process_resident_memory_bytes"} <= names
    openmetrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert "scalingnote_requests" in {family.name for family in parse_openmetrics(openmetrics.text)}


def test_requests_are_counted_by_route_template_and_status(registry: Path, tmp_path: Path) -> None:
    with client_of(registry, admin_tokens_file=tokens_file(tmp_path)) as client:
        client.post("/search", {"query": "a"})
        client.post("/search", {"query": ""})
        client.get("/search")
        for path in ("/no/such/path", "/nor/this"):
            client.get(path)
        client.post("/snapshots/some-id/activate", {})
        assert client.metric("scalingnote_requests_total", route="/search", code="200") == 1
        assert client.metric("scalingnote_requests_total", route="/search", code="422") == 1
        assert client.metric("scalingnote_requests_total", route="/search", code="405") == 1
        assert client.metric("scalingnote_requests_total", route="unmatched", code="404") == 2
        assert client.metric("scalingnote_requests_total", route="/snapshots/{snapshot_id}/activate", code="401") == 1
        assert client.metric("scalingnote_request_seconds_count", route="/search") == 3


def test_gauges_are_fresh_at_each_scrape(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    with client_of(tmp_path) as client:
        client.get("/metrics")
        assert client.metric("scalingnote_ready") == 1
        assert client.metric("scalingnote_snapshot_converged") == 1
        wanted = make_snapshot(tmp_path, rows=20, seed=3).root.name
        registry.activate(wanted, "for a test")
        client.parts.generations.enter(SwapState.FAILED)
        client.parts.follower._desire = Desire(wanted)
        client.parts.limiter.drain()
        client.get("/metrics")
        assert client.metric("scalingnote_ready") == 0
        assert client.metric("scalingnote_snapshot_converged") == 0
        assert client.metric("scalingnote_snapshot_desired_info", snapshot=wanted) == 1
