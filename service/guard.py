"""What is asked of the snapshot that serves, again and again: the golden answers, and the users' answers after a swap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import structlog

from service.gate import GateReport, code_of, reason_of
from service.golden import Proof
from service.swap import Generations
from service.watch import Vitals, Watch, WatchOptions

_PROOFS_IN_A_WATCH = 4

_log = structlog.get_logger(__name__)


class Breach(NamedTuple):
    """Why what serves should not go on serving.

    Attributes:
        code: stable name of the reason.
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Disproof:
    """The last proof of a snapshot, where it failed.

    Attributes:
        at: when, UTC.
    """

    snapshot: str
    code: str
    reason: str
    at: datetime


class GateObserver(Protocol):
    """Hears of reports and proofs, for metrics; must not raise."""

    def judged(self, report: GateReport) -> None:
        """An inspection has ended."""

    def proven(self, proof: Proof) -> None:
        """What serves has reproduced its golden answers."""

    def disproven(self, code: str) -> None:
        """What serves has not."""

    def rolled_back(self, code: str) -> None:
        """The service went back by itself."""


class NullGateObserver:
    """Hears and does nothing."""

    def judged(self, report: GateReport) -> None: ...

    def proven(self, proof: Proof) -> None: ...

    def disproven(self, code: str) -> None: ...

    def rolled_back(self, code: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """How often what serves proves itself.

    Attributes:
        interval_seconds: between two proofs; 0: never.
        rolls_back: whether a failed proof is a reason to go back outside of the watch after a swap too.
    """

    interval_seconds: float = 300.0
    rolls_back: bool = False


def _no_vitals() -> Vitals:
    return Vitals(0, 0, 0)


class Guard:
    """Looks when it is called, which the follower does between two looks at the registry: never beside a swap."""

    def __init__(
        self,
        generations: Generations,
        options: ProofOptions,
        watch: WatchOptions,
        count: Callable[[], Vitals] = _no_vitals,
        observer: GateObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep_former: bool = True,
    ) -> None:
        """Nothing is watched yet; without ``keep_former`` the former is closed when the watch is over."""
        self._keep_former = keep_former
        self._generations = generations
        self._options = options
        self._watch = Watch(watch, count, clock)
        self._watch_seconds = watch.seconds
        self.observer = observer or NullGateObserver()
        self._clock = clock
        self._prove_at = clock() + options.interval_seconds
        self._disproof: Disproof | None = None

    @property
    def disproof(self) -> Disproof | None:
        """Of what serves; None where its last proof did not fail."""
        disproof = self._disproof
        return disproof if disproof is not None and disproof.snapshot == self._generations.serving else None

    @property
    def watching(self) -> bool:
        """Whether the time after a swap is not over."""
        return self._watch.on

    def begin(self) -> None:
        """A snapshot has begun to serve in place of another."""
        self._watch.begin()
        self._prove_at = self._clock()

    def end(self) -> None:
        """Nothing is to be undone any more."""
        self._watch.end()

    def returned(self) -> None:
        """What served before serves again: there is nothing to undo, and the last proof was of another one."""
        self.end()
        self._disproof = None
        self._prove_at = self._clock()

    def rolled_back(self, breach: Breach) -> None:
        """As ``returned``, and by the service itself."""
        self.returned()
        self.observer.rolled_back(breach.code)

    def look(self) -> Breach | None:
        """A reason to go back, if there is one."""
        self._hold_on()
        reason = self._watch.look()
        if reason is not None:
            return Breach("watch", reason)
        if not self._keep_former and not self.watching:
            self._generations.forget_former()
        return self._prove() if self._options.interval_seconds and self._clock() >= self._prove_at else None

    def _hold_on(self) -> None:
        """At each look, since a gc may follow at once where a damaged snapshot was published again."""
        for pinned in (self._generations.peer, self._generations.lease_former):
            with pinned() as generation:
                if generation is not None:
                    generation.hold_on()

    def _prove(self) -> Breach | None:
        interval = self._options.interval_seconds
        self._prove_at = self._clock() + (min(interval, self._watch_seconds / _PROOFS_IN_A_WATCH) if self.watching else interval)
        with self._generations.peer() as serving:
            if serving is None:
                return None
            try:
                proof = serving.prove()
                serving.read_on()
                self._disproof = None
                self.observer.proven(proof)
                return None
            except Exception as error:  # noqa: BLE001 - counted by code: whatever a proof meets, following must go on
                return self._disproven(serving.id, error)

    def _disproven(self, snapshot: str, error: Exception) -> Breach | None:
        code, reason = str(code_of(error)), str(reason_of(error))
        self._disproof = Disproof(snapshot, code, reason, datetime.now(UTC))
        self.observer.disproven(code)
        _log.error("proof_failed", snapshot=snapshot, code=code, reason=reason)
        return Breach(code, reason) if self.watching or self._options.rolls_back else None
