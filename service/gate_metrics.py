"""Instruments of what snapshots had to show: gate, proofs, shadow, going back, and the memory that came back."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.gate import INTEGRITY, QUALITY, GateReport
from service.golden import Proof
from service.memory import Freed
from service.shadow import OUTCOMES as SHADOW_OUTCOMES

PREFIX = "scalingnote"
VERDICTS = ("passed", "forced", "refused")
PROOFS = ("passed", "failed")
WHEN = ("before", "after")


class GateMetrics:
    """A GateObserver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter(f"{PREFIX}_gate_reports", "Inspections of snapshots", ["verdict"], registry=registry)
        self.passed = Gauge(f"{PREFIX}_gate_check_passed", "1: passed in the last inspection", ["check"], registry=registry)
        self.value = Gauge(f"{PREFIX}_gate_check_value", "What the last inspection found", ["check"], registry=registry)
        self.limit = Gauge(f"{PREFIX}_gate_check_limit", "What that was compared with", ["check"], registry=registry)
        self.proofs = Counter(f"{PREFIX}_proofs", "Proofs of what serves", ["outcome"], registry=registry)
        self.proof_ok = Gauge(f"{PREFIX}_proof_ok", "1 unless the last proof of what serves failed", registry=registry)
        self.proof_time = Gauge(
            f"{PREFIX}_proof_last_success_timestamp_seconds", "When what serves was last proven", registry=registry
        )
        self.proof_recall = Gauge(f"{PREFIX}_proof_recall", "Recall of the golden queries then", registry=registry)
        self.proof_distance = Gauge(f"{PREFIX}_proof_cosine_distance", "Worst of their vectors then", registry=registry)
        self.rollbacks = Counter(f"{PREFIX}_automatic_rollbacks", "Swaps undone by the service itself", registry=registry)
        self.resident = Gauge(
            f"{PREFIX}_swap_resident_bytes", "Resident memory around the last closing of a snapshot", ["when"], registry=registry
        )
        self.returned = Counter(f"{PREFIX}_swap_returned_bytes", "Memory given back by closing snapshots", registry=registry)
        self.open = Gauge(f"{PREFIX}_generations_open", "Snapshots that are open in this process", registry=registry)
        self.recent = Gauge(f"{PREFIX}_recent_queries", "Queries kept to judge the next snapshot by", registry=registry)
        self.shadowed = Counter(
            f"{PREFIX}_shadow_queries", "Live queries that a candidate got too", ["outcome"], registry=registry
        )
        for outcome in SHADOW_OUTCOMES:
            self.shadowed.labels(outcome)
        for verdict in VERDICTS:
            self.verdicts.labels(verdict)
        for outcome in PROOFS:
            self.proofs.labels(outcome)
        for when in WHEN:
            self.resident.labels(when)
        for check in (*INTEGRITY, *QUALITY):
            self.passed.labels(check).set(1)
        self.proof_ok.set(1)

    def held(self, generations: Callable[[], int], recent: Callable[[], int]) -> None:
        """Ask these for what is held in memory, whenever somebody scrapes."""
        self.open.set_function(generations)
        self.recent.set_function(recent)

    def judged(self, report: GateReport) -> None:
        """An inspection has ended; figures that are texts are in the report only."""
        self.verdicts.labels("refused" if not report.accepted else "forced" if report.forced else "passed").inc()
        for check in report.checks:
            self.passed.labels(check.name).set(check.passed)
            if isinstance(check.value, float | int):
                self.value.labels(check.name).set(check.value)
            if isinstance(check.limit, float | int):
                self.limit.labels(check.name).set(check.limit)

    def proven(self, proof: Proof) -> None:
        """What serves has reproduced its golden answers."""
        self.proofs.labels("passed").inc()
        self.proof_ok.set(1)
        self.proof_time.set(time.time())
        self.proof_recall.set(proof.recall)
        self.proof_distance.set(proof.max_cosine_distance)

    def disproven(self, code: str) -> None:  # noqa: ARG002 - the log has it
        """What serves has not."""
        self.proofs.labels("failed").inc()
        self.proof_ok.set(0)

    def rolled_back(self, code: str) -> None:  # noqa: ARG002 - the log has it
        """The service went back by itself."""
        self.rollbacks.inc()
        self.proof_ok.set(1)

    def shadow(self, outcome: str) -> None:
        """A live query was chosen for a candidate."""
        self.shadowed.labels(outcome).inc()

    def freed(self, freed: Freed) -> None:
        """A generation was closed."""
        self.resident.labels("before").set(freed.before_bytes)
        self.resident.labels("after").set(freed.after_bytes)
        self.returned.inc(max(0, freed.bytes))
