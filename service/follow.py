"""Follows the registry's CURRENT: opens what is wanted beside what serves, replaces it, backs off where it cannot.

Everything that is done about snapshots is done by this one thread, at low priority: loading, judging, proving again, going
back. So there is at most one swap at a time, and none beside a proof.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog
from structlog.contextvars import bound_contextvars

from service.attempts import Asked, Failure, FollowOptions, Outcome, what_to_activate
from service.formers import formers, undone
from service.gate import GateReport, code_of, golden_checks, reason_of
from service.generation import Generation, Step
from service.guard import Breach, Disproof, Guard, ProofOptions
from service.inspection import Inspection
from service.memory import give_back
from service.niceness import Pace, yield_to_the_event_loop
from service.spare import Spare
from service.swap import Generations, NullObserver, SwapObserver, SwapState
from service.trial import Trials
from service.watch import WatchOptions
from snapshot.errors import NothingPublishedError, RegistryError, SnapshotError
from snapshot.layout import Layout
from snapshot.registry import Desire, Registry

Enter = Callable[[Step], None]

_REPORTS = 32  # kept; about 4 KB each

_log = structlog.get_logger(__name__)


class Opener(Protocol):
    """Loads snapshots."""

    def inspect(self, desire: Desire, pace: Callable[[], None]) -> Inspection:
        """Begin the inspection of what is wanted; ``pace`` is called between its parts and may raise to give up."""

    def open(self, layout: Layout, enter: Enter, inspection: Inspection) -> Generation:
        """Load a snapshot, ready to serve; ``enter`` hears each step as it begins, and may raise to give up.

        Raises:
            SnapshotError: it must not serve; says why.
        """


class Follower:
    """Makes the service serve what the registry says is wanted; whatever goes wrong, what serves goes on serving."""

    def __init__(
        self,
        registry: Registry,
        generations: Generations,
        opener: Opener,
        options: FollowOptions,
        observer: SwapObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        guard: Guard | None = None,
        spare: Spare | None = None,
        trials: Trials | None = None,
    ) -> None:
        self._registry = registry
        self._generations = generations
        self._opener = opener
        self._options = options
        self._observer = observer or NullObserver()
        self._clock = clock
        self._guard = guard or Guard(generations, ProofOptions(interval_seconds=0), WatchOptions(seconds=0), clock=clock)
        self._spare = spare or Spare()
        self._trials = trials or Trials()
        self._reports: deque[GateReport] = deque(maxlen=_REPORTS)
        self._desire: Desire | None = None
        self._declined: Desire | None = None
        self._undone: Failure | None = None
        self._tried: Desire | None = None
        self._failure: Failure | None = None
        self._retry_at = clock()
        self._poked = False
        self._asked: Asked | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def desired(self) -> str | None:
        """The id last read from CURRENT, or what is tried here ahead of it."""
        return None if self._desire is None else self._desire.snapshot

    @property
    def last_error(self) -> Failure | None:
        """Why what is wanted does not serve; None where it does, or where it is being tried for the first time."""
        return self._failure

    @property
    def disproof(self) -> Disproof | None:
        """Why the last proof of what serves failed; None where it did not."""
        return self._guard.disproof

    @property
    def gate_reports(self) -> tuple[GateReport, ...]:
        """Of the latest attempts, oldest first."""
        return tuple(self._reports)

    @property
    def retry_in_seconds(self) -> float | None:
        """Until what was refused is tried again; None where nothing waits."""
        if self._failure is None or self._failure.attempts == 0 or self._declined is not None:
            return None
        return max(0.0, self._retry_at - self._clock())

    def converge(self) -> Outcome:
        """One step: look after what serves, read what is wanted and, unless it serves or waits, open it and replace.

        Blocks while opening.
        """
        poked, self._poked = self._poked, False
        if poked:
            self._retry_at = self._clock()
        breach = self._guard.look()
        if breach is not None and self._roll_back(breach):
            return Outcome.ROLLED_BACK
        try:
            declared = self._registry.desired()
            self._desire = desire = self._trials.over(declared) or declared
            if desire is None:
                self._check_mount()
        except (RegistryError, OSError) as error:
            self._desire = None
            return Outcome.BACKING_OFF if self._backs_off(None) else self._fail(None, error)
        if desire is None:
            return self._nothing_wanted()
        if desire == self._declined or self._was_undone(desire):
            return self._decline(desire)
        self._declined = None
        if desire.snapshot == self._generations.serving:
            return self._unchanged()
        if self._backs_off(desire):
            return Outcome.BACKING_OFF
        with bound_contextvars(**self._ids(desire)):
            return self._change(desire)

    def poke(self, asked: Asked | None = None) -> None:
        """Look now, and forget any wait: an operator says that something has changed."""
        self._asked = asked
        self._poked = True  # kept for the next step, should one be failing just now
        self._wake.set()

    def start(self) -> None:
        """Step in a thread of its own, every ``poll_seconds``."""
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End the thread; what is being opened is given up at its next step."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        if self._generations.serving is None:
            self._step()  # nobody is being served yet, so nobody has to be yielded to
        yield_to_the_event_loop()
        while not self._stopping.is_set():
            self._step()

    def _step(self) -> None:
        self._wake.clear()
        try:
            outcome = self.converge()
        except Exception as error:  # noqa: BLE001 - kept as the reason and counted by code: following must go on
            outcome = self._fail(self._desire, error)
        if outcome is not Outcome.SUPERSEDED:
            self._wake.wait(self._options.poll_seconds)

    def _backs_off(self, desire: Desire | None) -> bool:
        """Whether this very desire failed just now; to want the same snapshot once more, or by force, is another desire."""
        return self._failed_before(desire) and self._clock() < self._retry_at

    def _failed_before(self, desire: Desire | None) -> bool:
        wanted = None if desire is None else desire.snapshot
        return self._failure is not None and self._failure.snapshot == wanted and self._tried == desire

    def _ids(self, desire: Desire) -> dict[str, str | None]:
        asked = self._asked
        if asked is None or asked.snapshot != desire.snapshot:
            return {}
        return {"request_id": asked.request_id, "trace_id": asked.trace_id}

    def _unchanged(self) -> Outcome:
        self._failure = None
        if self._asked is not None and self._asked.snapshot == self.desired:
            self._asked = None
        self._generations.enter(SwapState.SERVING)
        return Outcome.UNCHANGED

    def _check_mount(self) -> None:
        """RegistryError where not even what serves is there: that is no registry in which nothing is wanted, but none at all."""
        root, serving = self._registry.root, self._generations.serving
        if serving is not None and not (root / serving).exists():
            raise RegistryError(f"{root}: neither CURRENT nor {serving}, which serves, is there; look at the mount")

    def _nothing_wanted(self) -> Outcome:
        self._retry_at = self._clock()
        error = NothingPublishedError(what_to_activate(self._registry))
        if self._failure is None or self._failure.reason != str(error):
            self._failure = Failure(None, error.code, str(error), datetime.now(UTC), attempts=0)
            _log.warning("nothing_desired", reason=str(error))
        self._generations.rest()
        return Outcome.UNWANTED

    def _change(self, desire: Desire) -> Outcome:
        if not self._failed_before(desire):
            self._failure = None
        spare = self._spare if self._generations.serving is not None else None  # a start has nobody to spare
        inspection = self._opener.inspect(desire, Pace(lambda: self._go_on(desire), self._clock, spare))
        try:
            if self._generations.former == desire.snapshot and self._go_back(desire, inspection):
                return Outcome.RETURNED
            self._serve(desire, desire, inspection)
            self._failure = None
        except _SupersededError:
            _log.info("snapshot_superseded", snapshot=desire.snapshot)
            self._generations.rest()
            return Outcome.SUPERSEDED
        except Exception as error:  # noqa: BLE001 - kept as the reason and counted by code: following must go on
            self._keep(inspection.report(error))
            failed = self._fail(desire, error)
            return failed if self._stand_in(desire) else Outcome.SUPERSEDED
        return Outcome.REPLACED

    def _serve(self, new_one: Desire, desire: Desire, inspection: Inspection, detail: str = "") -> None:
        """Open and serve ``new_one`` as long as ``desire``, which is the same or what it stands in for, is wanted."""
        new = self._opener.open(self._registry.layout(new_one.snapshot), lambda step: self._enter(step, desire), inspection)
        with ExitStack() as unused:
            unused.callback(new.close)
            self._go_on(desire)
            unused.pop_all()
        report = inspection.report()
        self._keep(report)
        first = self._generations.serving is None
        self._generations.replace(new)
        if not first:
            self._guard.begin()
        _log.info(
            "snapshot_serving",
            snapshot=new_one.snapshot,
            load_seconds={step: round(seconds, 3) for step, seconds in new.load_seconds.items()},
            recall=new.proof.recall,
            forced=report.forced,
            why=report.why,
        )
        self._record(new_one.snapshot, "served", detail or (f"forced: {report.why}" if report.forced else ""))

    def _stand_in(self, desire: Desire) -> bool:
        """Where nothing serves, serve what did before, beside the failure of ``desire``; False where that is wanted no more."""
        if self._generations.serving is not None:
            return True
        try:
            for former in formers(self._registry.history(), self._registry.found()):
                if self._serve_former(former, desire):
                    break
        except _SupersededError:
            self._generations.rest()
            return False
        except (RegistryError, OSError) as error:
            _log.warning("no_former", snapshot=desire.snapshot, code=code_of(error), reason=reason_of(error))
        self._generations.enter(SwapState.FAILED)
        return True

    def _serve_former(self, former: Desire, desire: Desire) -> bool:
        """Signature, hashes and golden answers are those of a start; what it costs in quality, an earlier gate has said."""
        inspection = self._opener.inspect(former, Pace(lambda: self._go_on(desire), self._clock))
        try:
            self._serve(former, desire, inspection, f"in place of {desire.snapshot}, which does not serve")
        except _SupersededError:
            raise
        except Exception as error:  # noqa: BLE001 - kept in a report and logged by code: the next one may do
            self._keep(inspection.report(error))
            self._generations.enter(SwapState.FAILED)
            _log.warning("former_refused", snapshot=former.snapshot, code=code_of(error), reason=reason_of(error))
            return False
        return True

    def _was_undone(self, desire: Desire) -> bool:
        """Whether a process before this one went back from this very desire; it is declined then, as it was by that one."""
        if self._generations.serving is not None or self._declined is not None or self._trials.running is not None:
            return False  # an operator who tries it here knows of it
        event = undone(self._registry.history(), desire.snapshot, _service())
        if event is None:
            return False
        self._declined = desire
        self._undone = Failure(desire.snapshot, "rolled_back", event.why, datetime.now(UTC), attempts=1)
        self._generations.enter(SwapState.FAILED)
        self._observer.failed(desire.snapshot, "rolled_back")
        _log.error("snapshot_declined", snapshot=desire.snapshot, code="rolled_back", reason=event.why)
        return True

    def _decline(self, desire: Desire) -> Outcome:
        self._failure = self._undone
        if self._generations.serving is not None or self._clock() < self._retry_at:
            return Outcome.DECLINED
        self._retry_at = self._clock() + self._options.backoff_max_seconds
        return Outcome.DECLINED if self._stand_in(desire) else Outcome.SUPERSEDED

    def _go_back(self, desire: Desire, inspection: Inspection) -> bool:
        """Serve the former, which is open and warm, if it still proves itself; else it is closed, and to be opened anew."""
        self._enter("proving", desire)
        with self._generations.lease_former() as former:
            if former is None:
                return False
            try:
                proof = former.prove()
            except Exception as error:  # noqa: BLE001 - counted; whatever a proof meets, the way back is to open it anew
                self._observer.failed(former.id, str(code_of(error)))
                _log.warning("former_refused", snapshot=former.id, code=code_of(error), reason=reason_of(error))
                self._generations.forget_former()
                return False
            inspection.record.add(*golden_checks(former.manifest, proof))
        self._go_on(desire)
        if not self._generations.go_back():
            return False
        self._failure = None
        self._guard.returned()
        self._keep(inspection.report())
        _log.info("snapshot_serving", snapshot=desire.snapshot, recall=proof.recall, returned=True)
        self._record(desire.snapshot, "served", "it was still open")
        return True

    def _roll_back(self, breach: Breach) -> bool:
        """Undo the swap, and leave alone what was swapped in until somebody wants it anew; False where nothing is open."""
        left, to = self._generations.serving, self._generations.former
        self._guard.end()
        if left is None or to is None or not self._generations.go_back(discard=True):
            _log.error("cannot_roll_back", snapshot=left, code=breach.code, reason=breach.reason)
            return False
        reason = f"{left}: served badly, so {to} serves again: {breach.reason}; look into it, then activate it anew, or another"
        self._declined = self._desire if self.desired == left else None
        self._failure = self._undone = Failure(left, "rolled_back", reason, datetime.now(UTC), attempts=1)
        self._generations.enter(SwapState.FAILED)
        self._guard.rolled_back(breach)
        _log.error("snapshot_rolled_back", snapshot=left, to=to, code=breach.code, reason=breach.reason)
        self._record(left, "rolled_back", reason)
        return True

    def _enter(self, step: Step, desire: Desire) -> None:
        self._go_on(desire)
        if step == "opening":
            self._generations.forget_former()
        self._generations.enter(SwapState(step))

    def _go_on(self, desire: Desire) -> None:
        """_SupersededError where ``desire`` is not wanted any more."""
        declared = self._registry.desired()
        wanted = self._trials.over(declared) or declared
        if self._stopping.is_set() or wanted is None or wanted.snapshot != desire.snapshot:
            raise _SupersededError

    def _keep(self, report: GateReport) -> None:
        self._reports.append(report)
        self._guard.observer.judged(report)

    def _fail(self, desire: Desire | None, error: Exception) -> Outcome:
        attempts = self._failure.attempts + 1 if self._failure is not None and self._failed_before(desire) else 1
        wanted = None if desire is None else desire.snapshot
        code, reason = str(code_of(error)), str(reason_of(error))
        self._tried = desire
        self._retry_at = self._clock() + self._options.wait_seconds(attempts)
        self._failure = Failure(wanted, code, reason, datetime.now(UTC), attempts)
        self._generations.enter(SwapState.FAILED)
        give_back()
        self._observer.failed(wanted, code)
        unforeseen = None if isinstance(error, SnapshotError) else error
        _log.error("snapshot_refused", snapshot=wanted, code=code, reason=reason, attempts=attempts, exc_info=unforeseen)
        if wanted is not None and attempts == 1:  # once is enough: it is tried again for as long as it is wanted
            self._record(wanted, "refused", reason)
        return Outcome.FAILED

    def _record(self, snapshot: str, outcome: Literal["served", "refused", "rolled_back"], detail: str) -> None:
        self._registry.record_outcome(snapshot, outcome, detail, _service())


def _service() -> str:
    """Who this is, in the history."""
    return f"service on {socket.gethostname()}"


class _SupersededError(Exception):
    """Something else is wanted by now, or nothing any more."""
