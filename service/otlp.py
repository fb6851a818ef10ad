"""Spans of requests as OpenTelemetry has them, sent by OTLP over HTTP. Imported only where tracing is on: it needs the extra."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from service.record import UNMATCHED, Record, Served
from service.tracing import Finished

_NAME = "scalingnote"
_NS_PER_MS = 1_000_000
_OWN = "scalingnote."
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Those that the semantic conventions know; strangers' own would be names of spans without end."""
_RECORDED = TraceFlags(TraceFlags.SAMPLED)

Attributes = dict[str, AttributeValue]


class OtlpSender:
    """Sends batches to where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says; the variables of the transport are read by the library."""

    def __init__(self, service_name: str | None) -> None:
        """Send nothing yet.

        Args:
            service_name: of the service; None: as ``OTEL_RESOURCE_ATTRIBUTES`` has it, else ours.
        """
        self._ids = random.Random()  # noqa: S311 - ids are no secrets
        self._resource = _resource(service_name)
        self._scope = InstrumentationScope(_NAME, version(_NAME))
        self._exporter = OTLPSpanExporter()

    def send(self, batch: Sequence[Finished]) -> bool:
        """Send, again if need be, for as long as ``OTEL_EXPORTER_OTLP_TIMEOUT`` allows; the library logs why it could not."""
        spans = [span for finished in batch for span in self.spans(finished)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def end(self) -> None:
        """Try nothing again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library has no annotation there

    def spans(self, finished: Finished) -> Iterator[ReadableSpan]:
        """That of the request, then those of its stages, which share out all of its time one after the other."""
        record, span = finished.record, finished.span
        trace_id = int(span.trace_id, 16)
        context = _context(trace_id, int(span.span_id, 16))
        lengths_ns = {stage: round(ms * _NS_PER_MS) for stage, ms in record.spent_ms.items()}
        start_ns = finished.ended_ns - max(round(record.seconds * 1e9), sum(lengths_ns.values()))
        parent = None if span.parent_id is None else _context(trace_id, int(span.parent_id, 16), is_remote=True)
        yield self._span(
            _name_of(record),
            context,
            parent,
            (start_ns, finished.ended_ns),
            _of_request(record),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, record.code) if record.status >= 500 else Status(),
        )
        at_ns = start_ns
        for stage, length_ns in lengths_ns.items():
            child = _context(trace_id, self._ids.getrandbits(64) or 1)
            yield self._span(stage, child, context, (at_ns, at_ns + length_ns), _of_stage(stage, record.served))
            at_ns += length_ns

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times_ns: tuple[int, int],
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status or Status(),
            start_time=times_ns[0],
            end_time=times_ns[1],
            instrumentation_scope=self._scope,
        )


def _resource(service_name: str | None) -> Resource:
    resource = Resource.create({SERVICE_VERSION: version(_NAME)})
    found = str(resource.attributes.get(SERVICE_NAME, ""))
    if service_name is None and not found.startswith("unknown_service"):
        return resource
    return resource.merge(Resource({SERVICE_NAME: service_name or _NAME}))


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, _RECORDED)


def _name_of(record: Record) -> str:
    method = record.method if record.method in _METHODS else "HTTP"
    return method if record.route == UNMATCHED else f"{method} {record.route}"


def _of_request(record: Record) -> Attributes:
    """By the semantic conventions for HTTP servers; what they have no name for, under our own."""
    is_known = record.method in _METHODS
    found: dict[str, AttributeValue | None] = {
        "http.request.method": record.method if is_known else "_OTHER",
        "http.request.method_original": None if is_known else record.method,
        "http.route": None if record.route == UNMATCHED else record.route,
        "http.response.status_code": record.status,
        "error.type": record.code if record.status >= 500 else None,
        f"{_OWN}request_id": record.request_id,
        f"{_OWN}code": record.code,
        f"{_OWN}budget_ms": record.budget_ms,
        f"{_OWN}items": record.items,
        f"{_OWN}k": record.k,
    }
    return _known(found) | _of_answer(record.served)


def _of_answer(served: Served | None) -> Attributes:
    if served is None:
        return {}
    return _known(
        {
            f"{_OWN}snapshot": served.snapshot,
            f"{_OWN}effort": served.effort,
            f"{_OWN}exact": served.exact,
            f"{_OWN}degraded": served.degraded or None,
            f"{_OWN}expected_recall": served.expected_recall,
        }
    )


def _of_stage(stage: str, served: Served | None) -> Attributes:
    """What was chosen is with the stage that it makes long or short."""
    return _of_answer(served) if stage == "search" else {}


def _known(found: dict[str, AttributeValue | None]) -> Attributes:
    return {name: value for name, value in found.items() if value is not None}
