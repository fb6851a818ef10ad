"""The audit of dependencies, against an advisory service on loopback: what it finds fails, what it cannot reach does not."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from deploy.audit import main

ROOT = Path(__file__).parents[2]
HASH = f"--hash=sha256:{'0' * 64}"
FAULT = {
    "id": "PYSEC-2099-1",
    "schema_version": "1.0.0",
    "summary": "lets strangers in",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """OSV's query route, which knows of one package."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.append(name)
        found = name == "leaky" and query["version"] == "1.0"
        body = json.dumps({"vulns": [FAULT]} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    Advisories.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def lock(folder: Path, *pins: str) -> str:
    path = folder / "lock.txt"
    path.write_text("".join(f"{pin} \\\n    {HASH}\n" for pin in pins))
    return str(path)


def test_a_known_vulnerability_fails_and_is_named(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([lock(tmp_path, "sound==2.0", "leaky==1.0"), "--url", url, "--wait-seconds", "30"]) == 1
    printed = capsys.readouterr()
    assert "leaky 1.0: PYSEC-2099-1, fixed in 1.1: lets strangers in" in printed.err
    assert printed.out == "2 packages audited, 1 with known vulnerabilities\n"
    assert {"sound", "leaky"} <= set(Advisories.asked)


def test_what_is_sound_or_ignored_passes(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([lock(tmp_path, "leaky==1.1"), "--url", url, "--wait-seconds", "30"]) == 0
    again = lock(tmp_path, "leaky==1.0")
    assert main([again, "--url", url, "--wait-seconds", "30", "--ignore", "PYSEC-2099-1"]) == 0
    assert capsys.readouterr().out.count("1 packages audited, 0 with known vulnerabilities") == 2


def test_a_lock_that_cannot_be_read_is_no_pass(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.txt"), "--url", url, "--wait-seconds", "30"]) == 1
    assert "pip-audit did not finish" in capsys.readouterr().err


@pytest.mark.parametrize("silent", [False, True])
def test_where_nobody_answers_one_line_says_so(silent: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not silent:
            listener.close()
        began = time.monotonic()
        assert main([lock(tmp_path, "leaky==1.0"), "--url", f"http://127.0.0.1:{port}/", "--wait-seconds", "0.5"]) == 0
        assert time.monotonic() - began < 30
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"dependencies are not audited: http://127.0.0.1:{port}/ cannot be reached from here (")


def test_what_is_shipped_is_audited_by_make_check() -> None:
    assert (
        "$(BIN)/python deploy/audit.py deploy/requirements/service.txt deploy/requirements/offline.txt"
        in (ROOT / "Makefile").read_text()
    )
    assert "make check" in (ROOT / ".ci/run").read_text()
