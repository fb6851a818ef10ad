"""Which generation serves: pinned by whoever uses it, replaced by one assignment, closed when its last user has gone.

The one before may be kept open beside it, so that going back is one assignment too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.errors import DrainingError, NoGenerationError
from service.generation import Generation
from service.memory import Freed, give_back, resident_bytes


class SwapState(StrEnum):
    """What the service does about snapshots just now; ``Generations.serving`` says which one answers meanwhile."""

    IDLE = "idle"  # nothing was ever wanted
    VERIFYING = "verifying"
    OPENING = "opening"
    PROVING = "proving"
    WARMING = "warming"
    SHADOWING = "shadowing"  # answers a share of the live queries beside the one that serves; nobody gets its answers
    SERVING = "serving"  # what is wanted serves
    DRAINING = "draining"  # shutting down: leases are still given, readiness is not
    FAILED = "failed"  # the last attempt was refused; the one before, if any, still serves


class SwapObserver(Protocol):
    """Hears of swaps, for metrics; called from worker threads and must not raise."""

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None: ...

    def closed(self, snapshot: str, freed: Freed) -> None: ...

    def returned(self, to: Generation, left: str) -> None: ...


class NullObserver:
    """Hears and does nothing."""

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None: ...

    def closed(self, snapshot: str, freed: Freed) -> None: ...

    def returned(self, to: Generation, left: str) -> None: ...


@dataclass(slots=True)
class _Slot:
    """A generation with the number of those who use it; only touched under the lock."""

    generation: Generation
    leases: int = 0
    retired: bool = False


class Generations:
    """The serving generation and those that still have users. Every method is safe from any thread."""

    def __init__(self, observer: SwapObserver | None = None, keep_former: bool = False) -> None:
        """Nothing serves yet.

        Args:
            observer: hears of everything.
            keep_former: whether what is replaced stays open, until it is replaced itself.
        """
        self._keep_former = keep_former
        self._former: _Slot | None = None
        self._observer = observer or NullObserver()
        self._changed = threading.Condition()
        self._slot: _Slot | None = None
        self._open = 0  # slots that are not yet closed, the serving one included
        self._state = SwapState.IDLE
        self._ended = False
        self._observer.entered(self._state)

    @property
    def serving(self) -> str | None:
        """Id of the snapshot that answers now."""
        generation = self.current
        return None if generation is None else generation.id

    @property
    def current(self) -> Generation | None:
        """The generation that answers now, NOT pinned: read its manifest and proof, never search with it."""
        slot = self._slot
        return None if slot is None else slot.generation

    @property
    def former(self) -> str | None:
        """Id of the snapshot that is kept open to go back to."""
        slot = self._former
        return None if slot is None else slot.generation.id

    @property
    def open(self) -> int:
        """Generations that hold memory: the serving one, the former, and those that still have users."""
        return self._open

    @property
    def state(self) -> SwapState:
        return self._state

    def enter(self, state: SwapState) -> None:
        """Say what is being done; ignored once draining."""
        with self._changed:
            if state is self._state or self._state is SwapState.DRAINING:
                return
            self._state = state
        self._observer.entered(state)

    def rest(self) -> None:
        """Say that nothing is being done: what was given up has no part in what comes next."""
        self.enter(SwapState.IDLE if self._slot is None else SwapState.SERVING)

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """Pin the serving generation for the block, whatever is swapped meanwhile.

        Raises:
            NoGenerationError: none serves.
            DrainingError: ``close`` was called.
        """
        slot = self._take()
        try:
            yield slot.generation
        finally:
            self._give_back(slot)

    @contextmanager
    def peer(self) -> Iterator[Generation | None]:
        """Pin the serving generation for the block, to compare with; None where none serves."""
        try:
            slot = self._take()
        except (NoGenerationError, DrainingError):
            yield None
            return
        try:
            yield slot.generation
        finally:
            self._give_back(slot)

    @contextmanager
    def lease_former(self) -> Iterator[Generation | None]:
        """Pin the generation that is kept open, to prove it again; None where there is none."""
        with self._changed:
            slot = self._former
            if slot is not None:
                slot.leases += 1
        try:
            yield None if slot is None else slot.generation
        finally:
            if slot is not None:
                self._give_back(slot)

    def replace(self, new: Generation) -> None:
        """Serve ``new`` from now on; the one before becomes the former, or is closed.

        What is closed is closed in a worker thread, when its last lease ends.

        After ``close`` nothing serves any more, and ``new`` is closed instead.
        """
        with self._changed:
            ended, old = self._ended, self._slot
            self._open += 1
            slot = _Slot(new)
            if ended:
                self._retire(slot)
            else:
                self._slot = slot
                self._set_former(old if self._keep_former else None, old)
        if not ended:
            self._observer.replaced(new, None if old is None else old.generation.id)
            self.enter(SwapState.SERVING)

    def go_back(self, discard: bool = False) -> bool:
        """Serve the former again, by one assignment; False where there is none.

        What served becomes the former, so that an operator may change their mind, or with ``discard`` is closed.
        """
        with self._changed:
            former, left = self._former, self._slot
            if self._ended or former is None or left is None:
                return False
            self._slot, self._former = former, None
            self._set_former(None if discard else left, left)
        self._observer.returned(former.generation, left.generation.id)
        self.enter(SwapState.SERVING)
        return True

    def forget_former(self) -> None:
        """Close the former: two generations are enough memory while the next one is opened."""
        with self._changed:
            self._set_former(None, None)

    def drain(self) -> None:
        """Announce the end: DRAINING from now on. Leases are still given, because callers come until they have heard."""
        self.enter(SwapState.DRAINING)

    def close(self, timeout_seconds: float) -> bool:
        """Give no more leases, wait for those that are out and close everything; False where some outlived the wait."""
        self.drain()
        with self._changed:
            self._ended = True
            self._set_former(None, None)
            if self._slot is not None:
                self._retire(self._slot)
                self._slot = None
            return self._changed.wait_for(lambda: self._open == 0, timeout_seconds)

    def _set_former(self, kept: _Slot | None, left: _Slot | None) -> None:
        """Keep ``kept``, which is ``left`` or nothing; whatever is not kept is retired. Needs the lock."""
        dropped = [slot for slot in (self._former, left) if slot is not None and slot is not kept]
        self._former = kept
        for slot in dropped:
            self._retire(slot)

    def _take(self) -> _Slot:
        with self._changed:
            if self._ended:
                raise DrainingError("the service is shutting down")
            if self._slot is None:
                raise NoGenerationError("no snapshot is being served; /readyz says why and what to do")
            self._slot.leases += 1
            return self._slot

    def _give_back(self, slot: _Slot) -> None:
        with self._changed:
            slot.leases -= 1
            self._close_unused(slot)

    def _retire(self, slot: _Slot) -> None:
        """Nobody new will use the slot; needs the lock."""
        slot.retired = True
        self._close_unused(slot)

    def _close_unused(self, slot: _Slot) -> None:
        """Close in a thread of its own: unmapping an index takes tens of milliseconds, and the last user may be anybody."""
        if slot.retired and slot.leases == 0:
            generation = slot.generation
            threading.Thread(target=self._close, args=([generation],), name=f"close-{generation.id}").start()

    def _close(self, handed: list[Generation]) -> None:
        """Close what is handed over, and let go of it before memory is counted: what is mapped goes with the last reference.

        What goes wrong here goes to threading.excepthook, with the id in the thread's name; nobody waits in vain.
        """
        try:
            generation, before = handed.pop(), resident_bytes()
            snapshot = generation.id
            generation.close()
            del generation
            give_back()
            self._observer.closed(snapshot, Freed(before, resident_bytes()))
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()
