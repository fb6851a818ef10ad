"""What a process holds, read from /proc at little cost to it (Linux only)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_EVERY_SECONDS = 0.02


@dataclass(frozen=True)
class Held:
    """Memory in bytes; of it, what no file backs; open files; threads."""

    resident: int
    anonymous: int
    files: int
    threads: int


def held(pid: int) -> Held:
    """What a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = {name: int(value) for name, value in re.findall(r"^(VmRSS|RssAnon|Threads):\s+(\d+)", status, re.MULTILINE)}
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Held(values["VmRSS"] * 1024, values["RssAnon"] * 1024, files, values["Threads"])


def family(pid: int) -> list[int]:
    """The process and those that it has started."""
    found = [pid]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # ended meanwhile
            found += map(int, (thread / "children").read_text().split())
    return found


def _held_by(pids: Iterable[int]) -> Iterator[Held]:
    """Of those that are still there."""
    for pid in pids:
        with suppress(OSError, KeyError):  # ended meanwhile
            yield held(pid)


class Peak:
    """The most that a process and those that it has started hold together during the block; looked at every 20 ms."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak", daemon=True)
        self.resident = self.anonymous = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            all_of_them = list(_held_by(family(self._pid)))
            self.resident = max(self.resident, sum(each.resident for each in all_of_them))
            self.anonymous = max(self.anonymous, sum(each.anonymous for each in all_of_them))
            if self._over.wait(_EVERY_SECONDS):
                return
