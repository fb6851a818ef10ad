"""What strangers send makes no series; what callers trace is shown as exemplars, to OpenMetrics alone."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from serving import TOKEN, Client, client_of, make_registry, tokens_file

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def hostile(client: Client, number: int) -> None:
    """One round of what a stranger may try, different each time."""
    name = f"{number:032x}"
    headers = {
        "authorization": f"Bearer {TOKEN}",
        "x-request-id": name,
        "traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01",
        "user-agent": name,
        "host": f"{name}.example",
    }
    for method, path in (
        ("GET", f"/{name}"),
        ("GET", f"/search/{name}/{name}?{name}={name}"),
        ("POST", f"/%2e%2e/{name}"),
        (f"M{number}", "/search"),
        (f"M{number}", f"/{name}"),
        ("GET", f"/snapshots/{name}/gate"),
        ("GET", f"/snapshots/{name}/diff/{name}"),
        ("POST", f"/snapshots/{name}/activate"),
    ):
        client.request(method, path, headers=headers)
    client.post("/search", {"query": name, "k": number + 1, "timeout_ms": 500 + number, name: 1}, headers=headers)
    client.post("/search", {"query": name, "k": number + 1, "offset": number, "filter": {name: number}}, headers=headers)
    client.post("/search", {"query": "apple", "k": number + 1, "filter": {"number": number}}, headers=headers)
    client.post("/v1/embeddings", {"input": name, "model": name}, headers=headers)


def series(client: Client) -> set[str]:
    """Every series but the costs that plans believe, whose kinds are powers of two."""
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith(("#", "scalingnote_cost_seconds"))}


def test_strangers_make_no_series(tmp_path: Path) -> None:
    make_registry(tmp_path, rows=50)
    with client_of(tmp_path, admin_tokens_file=tokens_file(tmp_path), live_recall_share=1.0) as client:
        hostile(client, 0)
        client.get("/metrics")
        before = series(client)
        assert len(before) > 300
        for number in range(1, 30):
            hostile(client, number)
            while client.parts.live.step():
                pass
        fresh = series(client) - before
        assert {line for line in fresh if not line.startswith("scalingnote_live_recall")} == set()


def test_costs_are_bounded_by_powers_of_two(tmp_path: Path) -> None:
    make_registry(tmp_path, rows=50)
    with client_of(tmp_path) as client:
        for number in range(1, 200, 7):
            client.post("/search", {"query": " ".join(["apple"] * number), "k": number})
        text = client.get("/metrics").text
        assert len([line for line in text.splitlines() if line.startswith("scalingnote_cost_seconds")]) < 400


def exemplars(client: Client, name: str) -> set[str]:
    families = text_string_to_metric_families(client.get("/metrics", headers=OPENMETRICS).text)
    [family] = [family for family in families if family.name == name]
    return {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}


def test_a_recorded_trace_is_an_exemplar_of_its_latencies(tmp_path: Path) -> None:
    make_registry(tmp_path, rows=50)
    with client_of(tmp_path) as client:
        for trace, flags in ((TRACE, "01"), ("a" * 32, "00"), ("A" * 32, "01")):
            traceparent = f"00-{trace}-00f067aa0ba902b7-{flags}"
            assert client.post("/search", {"query": "apple"}, headers={"traceparent": traceparent}).status_code == 200
        client.post("/search", {"query": "apple"})
        for name in ("scalingnote_request_seconds", "scalingnote_stage_seconds"):
            assert exemplars(client, name) == {TRACE}
        assert TRACE not in client.get("/metrics").text
        assert TRACE not in client.get("/metrics", headers={"accept": "text/plain; version=0.0.4"}).text
