"""docs/tracing.md says which variables, spans and attributes there are, as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

from service.otlp import OtlpSender
from service.record import Record, Served
from service.settings import described_settings
from service.settings_tracing import STANDARD, TracingSettings
from service.traceparent import Span
from service.tracing import Finished
from service.walk import STAGES

PAGE = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
SPAN = Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "00f067aa0ba902b8")
READ_BY_THE_LIBRARY = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES"}


def attributes_of(row: str) -> set[str]:
    """Those that a row of the table names; `.name` is short for the one of ours."""
    return {f"scalingnote{name}" if name.startswith(".") else name for name in re.findall(r"`([a-z_]*\.[a-z_.]+)`", row)}


def row_of(name: str) -> str:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
    return row.split("|")[3]


def test_every_variable_that_is_named_exists_and_every_one_of_the_standard_is_named() -> None:
    named = set(re.findall(r"\b(?:OTEL|SCALINGNOTE)_[A-Z_]+[A-Z]\b", PAGE))
    known = {setting.variable for setting in described_settings()}
    assert named - known == READ_BY_THE_LIBRARY
    assert {name.upper() for name in STANDARD} <= named


def test_defaults_are_as_the_page_says() -> None:
    fields = TracingSettings.model_fields
    shown = {name: fields[name].default for name in STANDARD}
    queue, batch, delay = (shown[f"otel_bsp_{name}"] for name in ("max_queue_size", "max_export_batch_size", "schedule_delay"))
    assert f"| {queue} spans, {batch} spans, {delay:g} ms |" in PAGE
    assert f"| `{shown['otel_traces_sampler']}`, {shown['otel_traces_sampler_arg']:g} |" in PAGE


def test_spans_and_attributes_are_as_the_page_says() -> None:
    served = Served("one", 16, False, ("deadline_effort",), 0.9)
    spent = dict.fromkeys(STAGES, 1.0)
    record = Record("POST", "/search", 504, "late", "r", SPAN.trace_id, 0.008, 5.0, spent, 1, 10, served, SPAN)
    request, *stages = OtlpSender(None).spans(Finished(record, SPAN, 10**18))
    assert set(request.attributes or {}) == attributes_of(row_of("POST /search"))
    [names] = re.findall(r"^\| ((?:`\w+`, )+`\w+`) \| internal", PAGE, flags=re.MULTILINE)
    assert [stage.name for stage in stages] == re.findall(r"`(\w+)`", names)
    for stage in stages:
        expected = attributes_of(row_of("queue")) if stage.name == "search" else set()
        assert set(stage.attributes or {}) == expected
