"""The servers under test, each a process of its own so that its CPU time and memory can be read."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_READY_SECONDS = 120.0
_POLL_SECONDS = 0.01
_ROOT = Path(__file__).parents[2]
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+)\s*(.*)$")


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    process: psutil.Process
    ready_seconds: float

    def cpu_seconds(self) -> float:
        """User and system time of the process and of its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(times.user + times.system for times in (each.cpu_times() for each in family)))

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def proportional_bytes(self) -> int:
        """Resident memory, with what is shared divided among those that share it (Linux only)."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return _kilobytes(rollup, "Pss") * 1024

    def mapped_bytes(self, *files: Path) -> int:
        """Resident pages of the mappings of ``files`` (Linux only)."""
        inodes = {str(path.stat().st_ino) for path in files}
        total, is_ours = 0, False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if mapping := _MAPPING.match(line):
                is_ours = mapping[1] in inodes
            elif is_ours and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
        return total


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


@contextmanager
def serve(module: str, path: str, *arguments: str) -> Iterator[Server]:
    """Run ``python -m module --port PORT arguments`` until the block ends; ready when ``GET path`` answers 200.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--port", str(port), *arguments]
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=said, stderr=said)
        try:
            _wait(process, said, f"http://127.0.0.1:{port}{path}", started)
            yield Server(port, psutil.Process(process.pid), time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGINT)  # which, unlike SIGTERM, waits for no balancer
            process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], said: IO[bytes], url: str, started: float) -> None:
    while time.monotonic() - started < _READY_SECONDS:
        if process.poll() is not None:
            said.seek(0)
            raise RuntimeError(f"the server ended: {said.read().decode(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"{url} did not answer 200 within {_READY_SECONDS:.0f} s")
