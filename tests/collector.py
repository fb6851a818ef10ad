"""A collector of OpenTelemetry spans: a real OTLP receiver on loopback, decoding with the protocol's own messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 30.0


class Collector:
    """What arrived.

    Attributes:
        status: answered from now on.
        resources: attributes of those that sent.
    """

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.status = 200
        self.requests = 0
        self.resources: list[dict[str, Any]] = []
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def take(self, body: bytes) -> int:
        with self._changed:
            self.requests += 1
            if self.status == 200:
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes(group.resource.attributes))
                    self._spans += [span for scope in group.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return self.status

    def spans(self, trace_id: str, count: int) -> list[Span]:
        """Those of a trace, in the order of their beginning, the longest first; waits for ``count`` of them."""

        def found() -> list[Span]:
            return [span for span in self._spans if span.trace_id.hex() == trace_id]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, WAIT_SECONDS), [span.name for span in self._spans]
            return sorted(found(), key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))

    def asked(self, requests: int) -> None:
        """Wait until so many requests came."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests >= requests, WAIT_SECONDS)


def attributes(found: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in found}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = collector.take(body) if self.path == "/v1/traces" else 404
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_address[1])
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()
