"""Instruments of the remote registry, where one is followed."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.failures import REMOTE_FAILURES
from service.mirror import MirrorState

PREFIX = "scalingnote"


class RemoteMetrics:
    """A MirrorObserver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.state = Gauge(
            f"{PREFIX}_remote_state", "1 for what is being done about the remote registry", ["state"], registry=registry
        )
        self.succeeded = Gauge(
            f"{PREFIX}_remote_last_success_timestamp_seconds",
            "When what is wanted there was last seen to be here",
            registry=registry,
        )
        self.failures = Counter(
            f"{PREFIX}_remote_failures", "Looks and pulls that failed, by reason", ["code"], registry=registry
        )
        self.fetched = Counter(f"{PREFIX}_remote_fetched_bytes", "Bytes of snapshots that travelled", registry=registry)
        self.cached = Gauge(f"{PREFIX}_remote_cache_bytes", "Disk that pulled snapshots take", registry=registry)
        for code in REMOTE_FAILURES:
            self.failures.labels(code)
        self.mirror_entered(MirrorState.OFF)

    def mirror_entered(self, state: MirrorState) -> None:
        """Another state."""
        for other in MirrorState:
            self.state.labels(other.value).set(other is state)

    def mirror_succeeded(self) -> None:
        """What is wanted there is here."""
        self.succeeded.set(time.time())

    def mirror_failed(self, code: str) -> None:
        """A look or a pull has failed, for one of ``REMOTE_FAILURES``."""
        self.failures.labels(code).inc()

    def mirror_fetched(self, count: int) -> None:
        """So many bytes travelled."""
        self.fetched.inc(count)

    def mirror_cached(self, count: int) -> None:
        """So many bytes are kept."""
        self.cached.set(count)
