"""A balancer that answers in the service's place first, with a page of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOUND = {"hits": [{"id": "doc-of-the-service", "score": 0.5}]}


class Balancer(ThreadingHTTPServer):
    """Answers 503 with each of these ``Retry-After`` (None: without), then as a service that has found something."""

    def __init__(self, *retry_after: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.retry_after = list(retry_after)
        self.asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: Balancer

    def do_POST(self) -> None:
        self.server.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.retry_after:
            told = self.server.retry_after.pop(0)
            self._answer(503, b"<html>No server is available</html>", {"retry-after": told} if told is not None else {})
        else:
            self._answer(200, json.dumps(FOUND).encode(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        kind = "application/json" if status == 200 else "text/html"
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


@contextmanager
def balancing(*retry_after: str | None) -> Iterator[Balancer]:
    with Balancer(*retry_after) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
