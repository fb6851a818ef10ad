"""Spans of requests: whether there are any, and the queue between those who answer requests and what sends spans away.

Spans are made of the times that a request's walk has anyway, once its answer is out, by a thread of its own; nothing of
OpenTelemetry is imported here, and where tracing is off there is no tracer at all.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import structlog

from service.record import Record
from service.sampling import Share
from service.settings_tracing import Sampler
from service.traceparent import Span, Traceparent

Outcome = Literal["sent", "dropped", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("sent", "dropped", "failed")

_log = structlog.get_logger(__name__)


class Finished(NamedTuple):
    """A traced request whose answer is out.

    Attributes:
        ended_ns: when that was, in nanoseconds since 1970.
    """

    record: Record
    span: Span
    ended_ns: int

    @property
    def spans(self) -> int:
        """Of the request, and of each of its stages."""
        return 1 + len(self.record.spent_ms)


Send = Callable[[Sequence[Finished]], bool]
"""Sends the spans of some requests away and says whether they arrived; takes its time."""


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """As OpenTelemetry's variables of these names.

    Attributes:
        share: of traces, for the samplers that go by one.
        most_waiting: spans.
        most_at_once: spans of one sending, exceeded by less than one request has.
        delay_seconds: longest wait of a span before it is sent.
    """

    sampler: Sampler = "parentbased_always_on"
    share: float = 1.0
    most_waiting: int = 2048
    most_at_once: int = 512
    delay_seconds: float = 5.0


class Tracer:
    """Decides which requests are traced, on the event loop, and hands them on without waiting."""

    def __init__(
        self,
        options: TraceOptions,
        send: Send,
        count: Callable[[Outcome, int], object],
        ids: random.Random | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._options = options
        self._share = Share(options.share)
        self._send = send
        self._count = count
        self._ids = ids or random.Random()  # noqa: S311 - ids are no secrets
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._waiting: deque[Finished] = deque()
        self._waiting_spans = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)

    def begin(self, caller: Traceparent | None, *, works: bool) -> Span | None:
        """The span of a request that has come; None where it is not traced.

        Args:
            caller: who asked.
            works: on a query; other requests, probes and scrapes among them, are traced for callers who are.
        """
        if caller is None:
            if not works:
                return None
            trace_id, parent_id = f"{self._id(128):032x}", None
        else:
            if not works and not caller.sampled:
                return None
            trace_id, parent_id = caller.trace_id, caller.parent_id
        return Span(trace_id, f"{self._id(64):016x}", parent_id) if self._traces(trace_id, caller) else None

    def take(self, record: Record, span: Span) -> None:
        """The answer is out. Dropped, and counted, where too much waits already."""
        finished = Finished(record, span, self._now_ns())
        with self._lock:
            waiting = self._waiting_spans + finished.spans
            if waiting <= self._options.most_waiting:
                self._waiting.append(finished)
                self._waiting_spans = waiting
        if waiting > self._options.most_waiting:
            self._count("dropped", finished.spans)
        elif waiting >= self._options.most_at_once:
            self._wake.set()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def end(self, timeout_seconds: float) -> bool:
        """Send what waits; False where that takes longer."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _id(self, bits: int) -> int:
        """Not nought, which stands for no id."""
        return self._ids.getrandbits(bits) or 1

    def _traces(self, trace_id: str, caller: Traceparent | None) -> bool:
        sampler = self._options.sampler
        if caller is not None and sampler.startswith("parentbased"):
            return caller.sampled
        if sampler.endswith("traceidratio"):
            return self._share.has_trace(trace_id)
        return sampler.endswith("always_on")

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._options.delay_seconds)
            self._wake.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while batch := self._next():
            spans = sum(finished.spans for finished in batch)
            self._count("sent" if self._sent(batch) else "failed", spans)

    def _sent(self, batch: Sequence[Finished]) -> bool:
        try:
            return self._send(batch)
        except Exception:  # noqa: BLE001 - counted: the next batch must have its turn
            _log.exception("spans_not_sent")
            return False

    def _next(self) -> list[Finished]:
        batch: list[Finished] = []
        size = 0
        with self._lock:
            while self._waiting and size < self._options.most_at_once:
                batch.append(self._waiting.popleft())
                size += batch[-1].spans
            self._waiting_spans -= size
        return batch
