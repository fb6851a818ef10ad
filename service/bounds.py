"""What the gate's own process may take, so that a snapshot made to hang or to fill the memory ends as a refusal."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snapshot.errors import GateDiedError

_CPU_SECONDS = 900
_BYTES_A_SECOND = 10_000_000
_WALL = 4
_DATA_BYTES = 8 << 30
_DATA_TIMES_FILES = 4
_LINUX = hasattr(resource, "prlimit")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Generous: a million documents take six seconds of processor time and, beside their mapped files, half a gigabyte.

    Attributes:
        cpu_seconds: of processor time, of all its threads; then the system ends it by SIGXCPU. Load does not count.
        seconds: on the wall, but for those in which it was stopped to spare the machine.
        data_bytes: of memory of its own (RLIMIT_DATA). RLIMIT_AS would count what it maps too: the index itself, and
            the gigabytes that allocators reserve and never touch.
    """

    cpu_seconds: int
    seconds: float
    data_bytes: int

    @classmethod
    def of(cls, files_bytes: int) -> Bounds:
        """For a snapshot whose files are so large."""
        cpu_seconds = _CPU_SECONDS + files_bytes // _BYTES_A_SECOND
        return cls(cpu_seconds, _WALL * cpu_seconds, _DATA_BYTES + _DATA_TIMES_FILES * files_bytes)

    def impose(self, pid: int) -> None:
        """Tell the system, where it can be told: from outside, since nothing may run between fork and exec."""
        with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere; or a sandbox lets nobody
            if _LINUX:
                _lower(pid, resource.RLIMIT_CPU, self.cpu_seconds)
                _lower(pid, resource.RLIMIT_DATA, self.data_bytes)
        with contextlib.suppress(OSError):  # no /proc: then nothing can be said
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")  # where memory runs out, this process goes, not the service


def _lower(pid: int, which: int, to: int) -> None:
    """The soft limit only, and never beyond the hard one: that is not ours."""
    _, hard = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (to if hard == resource.RLIM_INFINITY else min(to, hard), hard))


class Deadline:
    """The time on the wall that is left."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._ends_at = clock() + seconds

    def rested(self, seconds: float) -> None:
        """The process was stopped for so long."""
        self._ends_at += seconds

    def check(self) -> None:
        """GateDiedError when it is over."""
        if self._clock() >= self._ends_at:
            raise GateDiedError(
                f"the gate's own process gave no verdict in {self._seconds:.0f} s and was ended; look whether the disk stands "
                "still; else do not serve this snapshot"
            )
