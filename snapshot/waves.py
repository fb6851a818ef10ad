"""A snapshot is brought to a fleet in waves: some services try it ahead of the registry, then more; CURRENT moves last.

A trial (``POST /snapshots/ID/try``) is of one process and holds only while its registry wants what it wanted before. So nothing
is in the registry of a rollout that is under way: a service that restarts in the middle serves what it did, a rollout that stops
ends its trials, and one whose command is killed is forgotten by each service after a while.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from snapshot.errors import FleetError, ReplicaError, ReplicaRefusedError, WaveError
from snapshot.fleet import Member, Seen, check_distinct

_PART = re.compile(r"(\d{1,6})(%?)")
_UNKNOWN = "snapshot_unknown"
_MARGIN_SECONDS = 600.0
"""That a trial outlasts the waves by, as planned."""
MOST_TRIAL_SECONDS = 86_400.0
"""Longer trials are refused by services (``TryBody``)."""


class Told(Protocol):
    """Hears how a rollout goes; lines for people."""

    def __call__(self, line: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done.

    Attributes:
        snapshot: the id.
        why: in the operator's words.
        force: past the gate, as far as it can be overruled.
        token: an operator's, known to every one of the services.
        wait_seconds: longest wait for a service to serve it.
        watch_seconds: how long a wave is watched before the next one begins.
    """

    snapshot: str
    why: str
    force: bool
    token: str
    wait_seconds: float
    watch_seconds: float
    look_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Time:
    """The clock, and how to let time pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def parse_waves(text: str, count: int) -> list[int]:
    """How many of ``count`` services have the snapshot after each wave, from ``1,25%,100%``; shares are rounded up.

    Raises:
        FleetError: it cannot be understood, shrinks, or does not end with all of them.
    """
    sizes: list[int] = []
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise FleetError(f"--wave {text}: {part.strip()!r} is neither a number nor a share; write it as 1,25%,100%")
        size = math.ceil(int(found[1]) * count / 100) if found[2] else int(found[1])
        if not 0 < size <= count or (sizes and size < sizes[-1]):
            raise FleetError(
                f"--wave {text}: {part.strip()} of {count} services is {size}; each wave has more, and the last has all"
            )
        sizes += [size] if sizes[-1:] != [size] else []
    if sizes[-1] != count:
        raise FleetError(f"--wave {text}: ends with {sizes[-1]} of {count} services; end it with 100%")
    return sizes


class Rollout:
    """One snapshot, one fleet."""

    def __init__(self, order: Order, fleet: Sequence[Member], told: Told, clock: Time | None = None) -> None:
        self._order = order
        self._fleet = fleet
        self._told = told
        self._time = clock or Time()
        self._trying: list[Member] = []

    def go(self, sizes: Sequence[int], declare: Callable[[], object]) -> None:
        """Wave by wave; ``declare`` moves the registry's pointer once every service has it.

        Raises:
            FleetError: it would take longer than a service tries anything; nothing was done.
            WaveError: a service failed. Every trial is ended, or said to be left; the registry was not touched. Or it was, and a
                service has not heard of it: the trial there will end.
        """
        lasting = (self._order.wait_seconds + self._order.watch_seconds) * len(sizes) + _MARGIN_SECONDS
        if not lasting <= MOST_TRIAL_SECONDS:
            raise FleetError(
                f"{len(sizes)} waves might take {lasting:g} s with --wait {self._order.wait_seconds:g} and --watch "
                f"{self._order.watch_seconds:g}, and a service tries nothing for longer than {MOST_TRIAL_SECONDS:g}; name less, "
                "or fewer waves"
            )
        try:
            self._check_all_answer()
            for number, size in enumerate(sizes, 1):
                self._wave(f"wave {number} of {len(sizes)}", self._fleet[len(self._trying) : size], lasting)
            declare()
        except BaseException as error:
            left = self._give_up()
            if isinstance(error, FleetError):
                raise WaveError(f"{error}. {left}") from error
            self._told(left)
            raise
        end = self._time.now() + self._order.wait_seconds
        for replica in self._fleet:
            self._confirm(replica, end)
        self._told(f"{self._order.snapshot} is desired now, and every one of {len(self._fleet)} services serves it")

    def _check_all_answer(self) -> None:
        """Before anybody is asked to change: a fleet that is not whole cannot converge."""
        fleet = [replica.look() for replica in self._fleet]
        check_distinct(self._fleet, fleet)
        for replica, seen in zip(self._fleet, fleet, strict=True):
            if seen.tries is not None and seen.tries != self._order.snapshot:
                raise WaveError(f"{replica.url}: tries {seen.tries} already; wait for that rollout, or end it")

    def _wave(self, name: str, joining: Sequence[Member], lasting: float) -> None:
        self._told(f"{name}: {', '.join(replica.url for replica in joining)}")
        body = {"why": self._order.why, "force": self._order.force, "seconds": lasting}
        for replica in joining:
            self._begin(replica, body)
        end = self._time.now() + self._order.wait_seconds
        for replica in joining:
            self._wait(replica, end)
        self._watch(self._time.now() + self._order.watch_seconds)
        self._told(f"{name}: {len(self._trying)} of {len(self._fleet)} serve it")

    def _begin(self, replica: Member, body: Mapping[str, object]) -> None:
        self._trying.append(replica)  # also where no answer comes: it may have begun
        try:
            replica.tell(f"/snapshots/{self._order.snapshot}/try", body, self._order.token)
        except ReplicaRefusedError:
            self._trying.pop()
            raise

    def _wait(self, replica: Member, end: float) -> None:
        while True:
            seen = replica.look()
            if seen.serving == self._order.snapshot and seen.desired == self._order.snapshot:
                return
            reason = self._failure(seen)
            if reason is not None:
                raise WaveError(f"{replica.url}: does not serve {self._order.snapshot}: {reason}")
            if self._time.now() >= end:
                waited = f"not after {self._order.wait_seconds:g} s ({seen.state}); raise --wait if it only takes longer"
                raise WaveError(f"{replica.url}: does not serve {self._order.snapshot}: {waited}")
            self._time.sleep(self._order.look_seconds)

    def _confirm(self, replica: Member, end: float) -> None:
        """That it wants the snapshot by its registry now; one that follows another would go back when its trial is over."""
        wanted = self._order.snapshot
        while True:
            try:
                seen = replica.look()
                if seen.tries is None and seen.desired == wanted:
                    return
                reason = f"its registry does not say so after {self._order.wait_seconds:g} s"
            except ReplicaError as error:
                reason = str(error)
            if self._time.now() >= end:
                raise WaveError(
                    f"{wanted} is desired now, but {replica.url} has not heard of it ({reason}); it goes back if it follows "
                    "another registry; name the one that it follows with --registry or --remote"
                )
            self._time.sleep(self._order.look_seconds)

    def _failure(self, seen: Seen) -> str | None:
        """Why it never will; None while it may."""
        if seen.desired != self._order.snapshot:
            return None if seen.tries == self._order.snapshot else f"it wants {seen.desired} again: restarted, or told otherwise"
        if seen.error_code == _UNKNOWN and seen.remote is not None:  # the registry elsewhere may have it: it comes, or fails
            return seen.remote_error
        return None if seen.error is None else f"{seen.error_code}: {seen.error}"

    def _watch(self, end: float) -> None:
        """Of all who have it: one that goes back by itself, or restarts, ends the rollout."""
        while True:
            for replica in self._trying:
                seen = replica.look()
                if seen.serving != self._order.snapshot:
                    reason = seen.error or "it was restarted, or told otherwise"
                    raise WaveError(f"{replica.url}: serves {seen.serving} again: {reason}")
                if seen.engine_error is not None:
                    raise WaveError(f"{replica.url}: answers no search: {seen.engine_error}")
            if self._time.now() >= end:
                return
            self._time.sleep(self._order.look_seconds)

    def _give_up(self) -> str:
        """End every trial; what came of that, in words."""
        if not self._trying:
            return "No service has begun to try it"
        unheard: list[str] = []
        refused: list[str] = []
        for replica in self._trying:
            try:
                replica.tell("/snapshots/end-trial", {"why": "the rollout stopped"}, self._order.token)
            except ReplicaRefusedError as error:
                refused.append(f"{replica.url} ({error})")
            except ReplicaError:
                unheard.append(replica.url)
        if not unheard and not refused:
            return f"All {len(self._trying)} that had begun go back to what the registry wants, which has not changed"
        told = [("Out of reach to be told so", unheard), ("Refuse to be told so", refused)]
        parts = [f"{what}: {', '.join(which)}" for what, which in told if which]
        return f"{'. '.join(parts)}; each goes back by itself later, or at a restart"
