"""What a process holds, read from /proc at little cost to it (Linux only)."""

from __future__ import annotations

import re
import threading
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


class Peak:
    """The most that a process holds during the block; looked at every 20 ms."""

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
            now = held(self._pid)
            self.resident, self.anonymous = max(self.resident, now.resident), max(self.anonymous, now.anonymous)
            if self._over.wait(_EVERY_SECONDS):
                return
