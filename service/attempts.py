"""What following the registry came to: outcomes, failures, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from snapshot.errors import RegistryError
from snapshot.paths import refuse_snapshot
from snapshot.registry import Registry


class Asked(NamedTuple):
    """The call by which an operator wanted a snapshot: what is logged about the swap has its ids."""

    snapshot: str
    request_id: str
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """When to look and when to try again.

    Attributes:
        poll_seconds: how often CURRENT is read.
        backoff_seconds: wait after the first failure of a snapshot; doubled by each further one.
        backoff_max_seconds: the longest wait.
    """

    poll_seconds: float = 1.0
    backoff_seconds: float = 1.0
    backoff_max_seconds: float = 300.0

    def wait_seconds(self, attempts: int) -> float:
        """How long to leave a snapshot alone that failed so often in a row."""
        doublings = min(attempts - 1, 32)  # 2 ** 32 seconds is beyond any cap, 2 ** 10000 beyond a float
        return min(self.backoff_max_seconds, self.backoff_seconds * 2.0**doublings)


class Outcome(StrEnum):
    """What one step of following came to."""

    UNWANTED = "unwanted"  # the registry says nothing is wanted; what serves, if anything, goes on
    UNCHANGED = "unchanged"  # what is wanted serves
    REPLACED = "replaced"
    RETURNED = "returned"  # an operator goes back, and the former was still open
    ROLLED_BACK = "rolled_back"  # what is wanted served badly, and the former serves again
    DECLINED = "declined"  # the same, some time ago: it is not tried again until somebody wants it anew
    SUPERSEDED = "superseded"  # something else was wanted before this one was ready: step again at once
    FAILED = "failed"
    BACKING_OFF = "backing_off"  # failed before and its wait is not over


@dataclass(frozen=True, slots=True)
class Failure:
    """Why what is wanted does not serve.

    Attributes:
        snapshot: the id that is wanted; None where that itself cannot be told.
        code: the error's stable code.
        reason: the error's message: what, where, what to do.
        at: when it last failed, UTC.
        attempts: how often it failed in a row.
    """

    snapshot: str | None
    code: str
    reason: str
    at: datetime
    attempts: int


def what_to_activate(registry: Registry) -> str:
    """What to do where nothing is wanted."""
    root = registry.root
    try:
        if not root.exists():
            return (
                f"{root}: no such folder; name the folder of snapshots with --registry, or make one with: "
                f"python -m offline run RECIPE --registry {root}"
            )
        if (fault := _no_registry(root)) is not None:
            return fault
        ids, offered = registry.ids(), registry.offered()
    except (OSError, RegistryError):  # only the advice needs them: that nothing is wanted is known
        ids, offered = [], None
    if offered is not None:
        which = "the latest" if offered == ids[-1] else "the latest that was not declined"
        activate = f"python -m snapshot activate {offered} --registry {root}"
        return f"{root}: {len(ids)} published, none activated; serve {which} with: {activate}"
    if ids:
        see = f"python -m snapshot history --registry {root}"
        return f"{root}: {len(ids)} published, none activated, and services have declined them all; why says: {see}"
    return (
        f"{root}: no snapshot is published; make one with: python -m offline run RECIPE --registry {root}, then: "
        f"python -m snapshot activate ID --registry {root}"
    )


def _no_registry(root: Path) -> str | None:
    """What to do where the folder named is a snapshot of one."""
    try:
        refuse_snapshot(root)
    except RegistryError as error:
        return str(error)
    return None
