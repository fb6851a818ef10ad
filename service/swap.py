"""Which generation serves: pinned by whoever uses it, replaced by one assignment, closed when its last user has gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from enum import StrEnum
from typing import ParamSpec, Protocol, TypeVar

from service.generation import Generation

P = ParamSpec("P")
R = TypeVar("R")


class SwapState(StrEnum):
    """What the service does about snapshots just now; ``Generations.serving`` says which one answers meanwhile."""

    IDLE = "idle"  # nothing was ever wanted
    VERIFYING = "verifying"
    OPENING = "opening"
    PROVING = "proving"
    WARMING = "warming"
    SERVING = "serving"  # what is wanted serves
    DRAINING = "draining"  # shutting down: leases are still given, readiness is not
    FAILED = "failed"  # the last attempt was refused; the one before, if any, still serves


class SwapObserver(Protocol):
    """Hears of swaps, for metrics; called from worker threads and must not raise."""

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None: ...

    def closed(self, snapshot: str) -> None: ...


class NullObserver:
    """Hears and does nothing."""

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None: ...

    def closed(self, snapshot: str) -> None: ...


class Generations:
    """The serving generation and those that drain. Every method is safe from any thread."""

    def __init__(self, observer: SwapObserver | None = None) -> None:
        raise NotImplementedError

    @property
    def serving(self) -> str | None:
        """Id of the snapshot that answers now."""
        raise NotImplementedError

    @property
    def current(self) -> Generation | None:
        """The generation that answers now, NOT pinned: read its manifest and proof, never search with it."""
        raise NotImplementedError

    @property
    def state(self) -> SwapState:
        raise NotImplementedError

    def enter(self, state: SwapState) -> None:
        """Say what is being done; ignored once draining."""
        raise NotImplementedError

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """Pin the serving generation for the block; raises NoGenerationError where there is none."""
        raise NotImplementedError

    def submit(
        self, executor: Executor, generation: Generation, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Run ``job`` in ``executor`` under its own lease of a generation that the caller holds.

        The lease ends with the job, not with the caller: a cancelled request may leave a thread inside the engine.
        """
        raise NotImplementedError

    def replace(self, new: Generation) -> None:
        """Serve ``new`` from now on; the one before is closed, in a worker thread, when its last lease ends."""
        raise NotImplementedError

    def drain(self) -> None:
        """Announce the end: state is DRAINING from now on. Leases are still given: callers arrive until they have heard."""
        raise NotImplementedError

    def close(self, timeout_seconds: float) -> bool:
        """Give no more leases, wait for those that are out, close everything; False where some did not end in time."""
        raise NotImplementedError
