"""Traces as a collector gets them: sent by OTLP to a real receiver, and compared with the answers they are of."""

from __future__ import annotations

import http.client
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import live
import pytest
from collector import Collector, attributes, collecting
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from serving import Client, client_of, hooked, make_registry

from service.otlp import OtlpSender
from service.record import Record, Served
from service.traceparent import Span as TraceSpan
from service.tracing import Finished

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e47", "00f067aa0ba902b7"
STAGES = ["queue", "tokenize", "encode", "search", "fetch", "render", "reply"]
SOON = {"tracing": True, "otel_bsp_schedule_delay": 1.0}
MISSING = """
import sys
sys.modules["opentelemetry.exporter"] = None
from service.__main__ import main
main()
"""
"""The service, where the extra is not installed."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def client(registry: Path, collector: Collector) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        with client_of(registry, **SOON) as made:
            yield made


def header(number: int, flags: str = "01") -> tuple[str, dict[str, str]]:
    """A trace of its own for each test."""
    trace_id = f"{TRACE}{number:02x}"
    return trace_id, {"traceparent": f"00-{trace_id}-{PARENT}-{flags}", "X-Request-ID": f"call-{number}"}


def test_the_spans_of_a_search_are_its_stages_under_the_callers_span(client: Client, collector: Collector) -> None:
    trace_id, headers = header(1)
    response = client.post("/search", {"query": "apple bread", "k": 3, "timeout_ms": 9000}, headers=headers)
    answer = response.json()
    request, *stages = collector.spans(trace_id, 1 + len(STAGES))
    assert (request.name, request.kind) == ("POST /search", Span.SPAN_KIND_SERVER)
    assert request.parent_span_id.hex() == PARENT
    assert response.headers["traceparent"] == f"00-{trace_id}-{request.span_id.hex()}-01"
    assert [stage.name for stage in stages] == STAGES
    assert {stage.parent_span_id for stage in stages} == {request.span_id}
    assert len({span.span_id for span in (request, *stages)}) == 1 + len(STAGES)
    found = attributes(request.attributes)
    assert found["scalingnote.request_id"] == "call-1"
    assert (found["http.request.method"], found["http.route"], found["http.response.status_code"]) == ("POST", "/search", 200)
    assert (found["scalingnote.snapshot"], found["scalingnote.k"], found["scalingnote.items"]) == (answer["snapshot"], 3, 1)
    assert (found["scalingnote.budget_ms"], found["scalingnote.exact"]) == (pytest.approx(9000), False)
    assert found["scalingnote.effort"] == attributes(stages[3].attributes)["scalingnote.effort"] > 0
    assert "scalingnote.degraded" not in found
    assert "apple" not in str(request)


def test_durations_add_up_to_the_request_and_agree_with_the_answer(client: Client, collector: Collector) -> None:
    trace_id, headers = header(2)
    timings_ms = client.post("/search", {"query": "apple bread"}, headers=headers).json()["timings_ms"]
    request, *stages = collector.spans(trace_id, 1 + len(STAGES))
    assert stages[0].start_time_unix_nano == request.start_time_unix_nano
    for before, after in itertools.pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert abs(request.end_time_unix_nano - stages[-1].end_time_unix_nano) < 1_000_000
    lasted_ms = {stage.name: (stage.end_time_unix_nano - stage.start_time_unix_nano) / 1e6 for stage in stages}
    for stage in STAGES[:-2]:
        assert lasted_ms[stage] == pytest.approx(timings_ms[stage], abs=0.001), stage


def test_what_failed_is_an_error_where_it_did(client: Client, collector: Collector) -> None:
    trace_id, headers = header(3)
    slot = client.parts.generations._slot
    assert slot is not None
    whole = slot.generation
    try:
        slot.generation = hooked(whole, lambda stage: 1 / 0 if stage == "search" else None)  # type: ignore[arg-type, return-value]
        assert client.post("/search", {"query": "apple"}, headers=headers).status_code == 500
    finally:
        slot.generation = whole
    request, *stages = collector.spans(trace_id, 5)
    assert (request.status.code, attributes(request.attributes)["error.type"]) == (Status.STATUS_CODE_ERROR, "internal")
    assert [stage.name for stage in stages][:4] == STAGES[:4]


def test_what_was_given_up_is_with_the_request_and_its_search() -> None:
    served = Served("one", 16, False, ("deadline_effort", "deadline_fields"), 0.9)
    span = TraceSpan(f"{TRACE}ff", PARENT, None)
    record = Record(
        "POST", "/search", 200, None, "r", span.trace_id, 0.003, 5.0, {"queue": 1.0, "search": 2.0}, 1, 10, served, span
    )
    request, queue, search = OtlpSender(None).spans(Finished(record, span, 10**18))
    for span_of in (request, search):
        assert span_of.attributes is not None
        assert span_of.attributes["scalingnote.degraded"] == ("deadline_effort", "deadline_fields")
        assert (span_of.attributes["scalingnote.effort"], span_of.attributes["scalingnote.expected_recall"]) == (16, 0.9)
    assert queue.attributes == {}
    assert (search.start_time, search.end_time, request.end_time) == (10**18 - 2_000_000, 10**18, 10**18)


@pytest.mark.parametrize(
    ("method", "route", "name", "attribute"),
    [
        ("GET", "unmatched", "GET", "GET"),
        ("PROPFIND", "unmatched", "HTTP", "_OTHER"),
        ("PROPFIND", "/search", "HTTP /search", "_OTHER"),
        ("HEAD", "/livez", "HEAD /livez", "HEAD"),
    ],
)
def test_methods_and_paths_of_strangers_name_no_spans(method: str, route: str, name: str, attribute: str) -> None:
    span = TraceSpan(f"{TRACE}fe", PARENT, None)
    record = Record(method, route, 405, "method_not_allowed", "r", span.trace_id, 0.001, None, {}, None, None, None, span)
    [request] = OtlpSender(None).spans(Finished(record, span, 10**18))
    found = request.attributes or {}
    assert (request.name, found["http.request.method"]) == (name, attribute)
    assert found.get("http.request.method_original") == (method if attribute == "_OTHER" else None)
    assert found.get("http.route") == (None if route == "unmatched" else route)


def test_malformed_requests_have_no_stages_and_are_no_errors_of_the_server(client: Client, collector: Collector) -> None:
    trace_id, headers = header(4)
    client.post("/search", {"query": "apple", "k": 0}, headers=headers)
    [request] = collector.spans(trace_id, 1)
    found = attributes(request.attributes)
    assert (found["http.response.status_code"], found["scalingnote.code"]) == (422, "request_invalid")
    assert request.status.code == Status.STATUS_CODE_UNSET


def test_without_a_caller_a_trace_begins_here_and_is_the_exemplar(client: Client, collector: Collector) -> None:
    response = client.post("/search/batch", [{"query": "apple", "k": 2}, {"query": "drum", "exact": True}])
    trace_id = response.headers["traceparent"].split("-")[1]
    request, *stages = collector.spans(trace_id, 1 + len(STAGES))
    assert request.parent_span_id == b""
    assert attributes(request.attributes)["scalingnote.items"] == 2
    assert {stage.name for stage in stages} == set(STAGES)
    scraped = client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    assert f'# {{trace_id="{trace_id}"}}' in scraped


def test_whom_nobody_records_is_echoed_and_not_traced(client: Client, collector: Collector) -> None:
    trace_id, headers = header(5, flags="00")
    response = client.post("/search", {"query": "apple"}, headers=headers)
    assert response.headers["traceparent"] == headers["traceparent"]
    assert "traceparent" not in client.get("/livez").headers
    marker, headers = header(6)
    client.get("/livez", headers=headers)
    assert [span.name for span in collector.spans(marker, 1)] == ["GET /livez"]
    assert collector.spans(trace_id, 0) == []


def test_the_service_is_named(client: Client, collector: Collector) -> None:
    trace_id, headers = header(7)
    client.get("/livez", headers=headers)
    collector.spans(trace_id, 1)
    resource = collector.resources[-1]
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("scalingnote", "tests")
    assert resource["service.version"]


def test_what_the_collector_does_not_take_is_counted(client: Client, collector: Collector) -> None:
    before = client.metric("scalingnote_spans_total", outcome="failed")
    collector.status = 400
    try:
        asked = collector.requests
        client.post("/search", {"query": "apple"})
        collector.asked(asked + 1)
    finally:
        collector.status = 200
    trace_id, headers = header(8)
    client.get("/livez", headers=headers)
    collector.spans(trace_id, 1)  # later than the one before, which was counted in between
    assert client.metric("scalingnote_spans_total", outcome="failed") == before + 8
    assert client.metric("scalingnote_spans_total", outcome="sent") > 0


@pytest.mark.slow
def test_a_real_service_sends_what_waits_when_it_ends(registry: Path, tmp_path: Path, collector: Collector) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        "OTEL_SERVICE_NAME": "of-the-tests",
    }
    trace_id, _ = header(9)
    running = live.start(tmp_path, registry, "--tracing", "true", environment=environment)
    try:
        live.until(running, running.ready, "ready")
        answered = _ask(running.port, trace_id)
    finally:
        assert running.stop() == 0
    spans = collector.spans(trace_id, 8)
    assert [span.name for span in spans] == ["POST /search", *STAGES]
    assert answered.split("-")[2] == spans[0].span_id.hex()
    assert collector.resources[-1]["service.name"] == "of-the-tests"


@pytest.mark.slow
def test_a_missing_extra_is_one_line_that_names_it(registry: Path) -> None:
    command = [sys.executable, "-c", MISSING, "--registry", str(registry), "--tracing", "true", "--port", "0"]
    ended = subprocess.run(command, cwd=live.ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert "error: tracing: needs OpenTelemetry; install it: pip install 'scalingnote[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_where_it_is_off_its_libraries_are_not_imported() -> None:
    code = "import sys, service.main; print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'requests'))])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=live.ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "[]"


def test_switched_off_by_the_standards_variable_too(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with client_of(registry, tracing=True) as made:
        assert made.parts.tracer is None


def _ask(port: int, trace_id: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/search", '{"query": "apple"}', {"traceparent": f"00-{trace_id}-{PARENT}-01"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return str(response.headers["traceparent"])
