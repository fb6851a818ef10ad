"""Instruments of API keys. Names of keys are labels: they come from the file only, never from a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

PREFIX = "scalingnote"
OUTCOMES = ("admitted", "rate_limited", "scope", "expired")
STRANGERS = ("missing", "unknown")
_NOBODY = ""


class KeyMetrics:
    """What the keys of a file are used for, and whether that file can be read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            f"{PREFIX}_api_key_requests",
            "Requests that need a key",
            ["key", "outcome"],
            registry=registry,
        )
        self._keys = Gauge(f"{PREFIX}_api_keys", "Keys that are known", registry=registry)
        self._valid = Gauge(f"{PREFIX}_api_keys_file_valid", "0 while the file is wrong", registry=registry)
        self._valid.set(1)
        self.strangers = {outcome: self._requests.labels(_NOBODY, outcome) for outcome in STRANGERS}
        self._names: set[str] = set()

    def known(self, names: Iterable[str]) -> None:
        """These are the keys now: series of the others end."""
        now = set(names)
        for name in self._names - now:
            for outcome in OUTCOMES:
                self._requests.remove(name, outcome)
        self._names = now
        self._keys.set(len(now))
        self._valid.set(1)

    def of(self, name: str) -> Mapping[str, Counter]:
        """Counters of a key by outcome, from zero."""
        return {outcome: self._requests.labels(name, outcome) for outcome in OUTCOMES}

    def spoiled(self) -> None:
        """The file is wrong."""
        self._valid.set(0)
