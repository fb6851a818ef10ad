"""Two real S3 servers on loopback: moto keeps conditions on writes, rclone checks signatures."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapshot.registry import Registry

BIN = Path(sys.executable).parent
KEY, SECRET = "AKIATESTTEST", "sk12345678"
BUCKET = "bucket"


@dataclass(frozen=True)
class S3:
    """A server that listens."""

    kind: str
    port: int

    def variables(self, port: int | None = None) -> dict[str, str]:
        """The usual variables for it, or for a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < give_up, f"{command[0]} does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.kill()  # rclone would wait for connections to end
        process.wait(10)


@contextmanager
def moto() -> Iterator[S3]:
    server = S3("moto", free_port())
    with _running([str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(server.port)], server.port):
        make_bucket = urllib.request.Request(f"http://127.0.0.1:{server.port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(make_bucket, timeout=10).close()
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[S3]:
    program = BIN / "rclone"
    found = str(program) if program.exists() else shutil.which("rclone")
    if found is None:
        pytest.skip("rclone is not installed")
    server = S3("rclone", free_port())
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{server.port}"
    with _running([found, "serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}", str(folder)], server.port):
        yield server


def use(monkeypatch: pytest.MonkeyPatch, server: S3, port: int | None = None) -> None:
    """Point obstore's variables at the server, or at a proxy before it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.variables(port).items():
        monkeypatch.setenv(name, value)


def wanted(registry: Registry) -> str:
    """What is desired there."""
    found = registry.current()
    assert found is not None
    return found
