"""Debian's HAProxy in a process of its own, on the loopback, with the configuration of deploy/ in front of given ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import free_port

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
COMPOSE = ROOT / "deploy/haproxy/compose.cfg"
KUBERNETES = ROOT / "deploy/haproxy/kubernetes.cfg"
INSTALL = "apt-get install -y --no-install-recommends haproxy"
_START_SECONDS = 30.0
_POLL_SECONDS = 0.02


def found_haproxy() -> str | None:
    """Where it is, if it is installed; Debian's folder for it is not on everybody's path."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def haproxy() -> str:
    """Where it is; the tests are left out without it, but not in CI."""
    found = found_haproxy()
    if found is None:
        reason = f"the balancer is not tested: no haproxy is installed (Debian: {INSTALL})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@contextmanager
def balanced(folder: Path, ports: Sequence[int], options: str = "check") -> Iterator[int]:
    """The port of one in front of replicas at ``ports``, until the block ends; its log is ``folder/haproxy.log``."""
    port, backend, log = free_port(), folder / "replicas.cfg", folder / "haproxy.log"
    servers = [f"    server replica{number} 127.0.0.1:{one} {options}" for number, one in enumerate(ports)]
    backend.write_text("\n".join(["backend replicas", *servers, ""]))
    where = {"SCALINGNOTE_BALANCER_HOST": "127.0.0.1", "SCALINGNOTE_BALANCER_PORT": str(port)}
    with log.open("w") as said:
        process = subprocess.Popen(
            [haproxy(), "-db", "-f", str(CONFIG), "-f", str(backend)], env=os.environ | where, stdout=said, stderr=said
        )
    try:
        _wait(process, port, log)
        yield port
    finally:
        process.kill()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"haproxy does not listen: {log.read_text()[-2000:]}")
