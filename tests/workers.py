"""Functions for workers of another process that tell what they do, and one that dies when it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Recorded:
    """Calls ``function``, and leaves a file for each call in ``folder``; the first of task ``victim`` never comes back.

    Attributes:
        number: of a task.
    """

    function: Callable[[Any], Any]
    number: Callable[[Any], int]
    folder: Path
    victim: int | None = None

    def __call__(self, task: Any) -> Any:
        number = self.number(task)
        tries = len(list(self.folder.glob(f"{number}-*")))
        (self.folder / f"{number}-{tries}-{os.getpid()}").touch()
        result = self.function(task)
        if number == self.victim and tries == 0:
            (self.folder / "waits").write_text(str(os.getpid()))
            signal.pause()
        return result

    def calls(self) -> list[int]:
        """Numbers of the tasks that were begun, each as often as it was."""
        return sorted(int(path.name.split("-")[0]) for path in self.folder.glob("*-*-*"))

    def workers(self) -> set[str]:
        """Process ids of those that worked."""
        return {path.name.split("-")[2] for path in self.folder.glob("*-*-*")}


def kill_when_it_waits(folder: Path) -> threading.Thread:
    """``kill -9`` to the worker that waits, from another thread; the caller joins it."""
    thread = threading.Thread(target=_kill, args=(folder / "waits",), daemon=True)
    thread.start()
    return thread


def _kill(waits: Path) -> None:
    for _ in _until(time.monotonic() + _LONGEST_SECONDS):
        if waits.is_file() and waits.read_text():
            os.kill(int(waits.read_text()), signal.SIGKILL)
            return


def _until(end: float) -> Iterator[None]:
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
