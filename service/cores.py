"""How many cores this process may really use, which is not how many the machine has, and who gets them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from service.control_groups import MEMBERSHIP, MOUNT, cpu_quota


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Who computes on how many threads. The event loop has one more, which waits rather than computes.

    A worker is in one stage at a time, so no more than ``workers`` times the widest stage compute at once.

    Attributes:
        cores: that this process may use.
        workers: requests worked on at a time.
        encoder: threads of one call of the graph.
        search: threads of one search of an index in several files, as many as the widest call of the graph. Of any other it
            is one: OpenMP would make a pool for each worker (facebookresearch/faiss#2731).
        tokenizer: threads of one call of the tokenizer, whose own pool has one for each core of the host.
    """

    cores: int
    workers: int
    encoder: int
    search: int = 1
    tokenizer: int = 1

    @property
    def most(self) -> int:
        """Threads that compute at once, at most."""
        return self.workers * max(self.encoder, self.search, self.tokenizer)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def plan_threads(cores: int, workers: int | None, encoder: int | None) -> ThreadPlan:
    """Divide ``cores``; what is None is chosen, so that no more threads compute than there are cores.

    One thread for each call of the graph unless asked otherwise: several calls side by side need less CPU for a request
    than one call on several threads, which wait for each other.
    """
    wide = encoder or 1
    return ThreadPlan(cores, workers or max(1, cores // wide), wide, search=wide)


def available_cores(cgroup: Path = MOUNT, affinity: int | None = None, membership: Path = MEMBERSHIP) -> int:
    """Cores by affinity, lowered to the least CPU quota of the control groups (version 2 or 1) that hold it; at least 1.

    Args:
        cgroup: where the control group's files are mounted.
        affinity: cores that the scheduler lets this process use; asked of the system unless given.
        membership: says which groups hold this process.
    """
    allowed = affinity if affinity is not None else cores_by_affinity()
    quota = cpu_quota(cgroup, membership)
    return max(1, min(allowed, int(quota))) if quota is not None else max(1, allowed)


def cores_by_affinity() -> int:
    """Cores that the scheduler lets this process use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
