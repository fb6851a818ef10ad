"""Instruments of what the service says of itself otherwise: lines of its log that were lost, and its spans."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from service.log_writer import CAUSES, Cause
from service.tracing import OUTCOMES, Outcome

PREFIX = "scalingnote"


class TelemetryMetrics:
    """Counts; every label exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lines = Counter(f"{PREFIX}_log_lines_lost", "Lines that the log lacks", ["cause"], registry=registry)
        spans = Counter(f"{PREFIX}_spans", "Spans of requests", ["outcome"], registry=registry)
        self._lines = {cause: lines.labels(cause) for cause in CAUSES}
        self._spans = {outcome: spans.labels(outcome) for outcome in OUTCOMES}

    def lines_lost(self, cause: Cause, count: int) -> None:
        """So many lines were not written."""
        self._lines[cause].inc(count)

    def spans(self, outcome: Outcome, count: int) -> None:
        """What came of so many spans."""
        self._spans[outcome].inc(count)
