"""Overload in the log: one line when the service begins to refuse requests, one when it has stopped."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from service.deadline import Clock

_log = structlog.get_logger(__name__)


class Shedding:
    """Watches counters of refused requests; refusals that are less than ``quiet_seconds`` apart are one overload."""

    def __init__(self, clock: Clock, quiet_seconds: float) -> None:
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._before: dict[str, float] = {}
        self._total: Mapping[str, float] = {}
        self._since: float | None = None
        self._latest = 0.0

    def observe(self, refused: Mapping[str, float]) -> None:
        """Hear, now and then, how many requests were refused so far, by cause."""
        now = self._clock()
        if sum(refused.values()) > sum(self._total.values()):
            self._latest = now
            if self._since is None:
                self._since, self._before = now, dict(self._total)
                _log.warning("shedding", causes=self._new(refused))
        self._total = dict(refused)
        if self._since is not None and now - self._latest >= self._quiet_seconds:
            self.end()

    def end(self) -> None:
        """Write the last line, if the first one was written."""
        if self._since is not None:
            seconds = round(self._latest - self._since, 1)
            _log.warning("shedding_ended", refused=self._new(self._total), seconds=seconds)
            self._since = None

    def _new(self, refused: Mapping[str, float]) -> dict[str, int]:
        counts = {cause: int(count - self._before.get(cause, 0)) for cause, count in refused.items()}
        return {cause: count for cause, count in counts.items() if count}
