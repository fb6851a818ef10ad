"""A service that runs for real: a process of its own, what can be seen of it from outside, and its log."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SERVICE = ("-m", "service")
START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02
_SAMPLE = re.compile(r"^scalingnote_(\w+?)(?:\{(.*)\})? (\S+)$")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SCALINGNOTE_")}


@dataclass(frozen=True)
class Live:
    """A process that was started as a service.

    Attributes:
        log: where it writes its lines.
    """

    port: int
    process: psutil.Popen
    log: Path

    def read(self, path: str) -> bytes:
        """The body of a GET that is answered 200."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            body: bytes = response.read()
        return body

    def get(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a GET, or of a POST of ``body``, whatever the status; OSError without a whole answer."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except http.client.HTTPException as error:
            raise ConnectionError(f"GET {path} got no whole answer") from error

    def metrics(self) -> dict[str, float]:
        """Every series of ours by ``name`` or ``name{labels}``, and summed over labels by ``name``."""
        found: dict[str, float] = {}
        for line in self.read("/metrics").decode().splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match[1], match[2], float(match[3])
                found[name] = found.get(name, 0.0) + value
                if labels:
                    found[f"{name}{{{labels}}}"] = value
        return found

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def is_running(self) -> bool:
        return self.process.poll() is None

    def ready(self) -> bool:
        """Whether it answers that a snapshot serves."""
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, ValueError):
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process, which may be stopped or gone, and wait for its end; the exit code."""
        if self.is_running():
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        return int(self.process.wait(_STOP_SECONDS))


def start(
    folder: Path,
    registry: Path,
    *flags: str,
    program: Sequence[str] = SERVICE,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Live:
    """Start ``python PROGRAM`` over ``registry``, with its log below ``folder``; does not wait for it.

    On a free port, unless that of one that has ended is given.
    """
    port = port or free_port()
    common = ["--registry", str(registry), "--port", str(port), "--log-format", "json", "--drain-min-seconds", "0"]
    log = folder / f"service-{port}.log"
    with log.open("a") as said:
        command = [sys.executable, *program, *common, *flags]
        process = psutil.Popen(command, cwd=ROOT, env=ENVIRONMENT | dict(environment or {}), stdout=said, stderr=said)
    return Live(port, process, log)


def free_port() -> int:
    """Of the loopback; somebody else may take it before it is used."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def until(live: Live, condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """Ask until the answer is true, and give it.

    Raises:
        RuntimeError: the process ended, or ``seconds`` passed; with the end of its log.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not live.is_running():
            raise RuntimeError(f"the service ended with {live.process.returncode}, not {what}: {live.log.read_text()[-2000:]}")
        if found := condition():
            return found
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"not {what} within {seconds:g} s: {live.log.read_text()[-2000:]}")
