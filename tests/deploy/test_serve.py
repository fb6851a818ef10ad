import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from make_snapshot import make_snapshot

from deploy.serve import main
from snapshot.registry import Registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_free_port_passes(free_port, capsys):
    assert main(["--check", "--port", str(free_port)]) == 0
    assert capsys.readouterr().err == ""


def test_a_taken_port_is_named_with_the_way_out(taken_port, capsys):
    assert main(["--check", "--port", str(taken_port)]) == 1
    message = capsys.readouterr().err
    assert f"127.0.0.1:{taken_port}" in message
    assert "make demo PORT=" in message


@pytest.mark.parametrize("port", ["99999", "abc", "0", "-1", "", "²"])
def test_a_port_that_cannot_be_is_refused_with_the_target_that_was_made(port, capsys):
    assert main(["--check", f"--port={port}", "--target", "serve"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"PORT={port} is no port: it is a number from 1 to 65535; choose another port, as in: make serve PORT=8765"


def lines_until(stream, beginning):
    """What a process prints, up to and with the first line that begins so."""
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith(beginning):
            break
    return lines


@pytest.mark.slow
def test_says_what_to_try_once_ready_and_ends_quietly_on_ctrl_c(tmp_path, free_port):
    Registry(tmp_path).activate(make_snapshot(tmp_path).root.name, "test")
    command = [sys.executable, "deploy/serve.py", "--port", str(free_port), "--registry", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        told = lines_until(process.stdout, "Ctrl-C")
        curl = shlex.split(next(line for line in told if "curl" in line))
        search = Request(curl[2], curl[curl.index("-d") + 1].encode(), dict([curl[curl.index("-H") + 1].split(": ")]))
        with urlopen(search, timeout=10) as answer:
            hits = json.load(answer)["hits"]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert len(hits) == 10
    assert process.returncode == 0


def test_a_service_that_cannot_start_passes_its_code_on(tmp_path, free_port):
    command = [sys.executable, "deploy/serve.py", "--port", str(free_port), "--registry", str(tmp_path)]
    broken = {**os.environ, "SCALINGNOTE_MAX_K": "none"}
    ended = subprocess.run(command, cwd=ROOT, env=broken, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "SCALINGNOTE_MAX_K" in ended.stderr
    assert "Ready" not in ended.stdout
