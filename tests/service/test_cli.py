"""``python -m service`` as a user starts and stops it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot
from serving import make_registry

from service.__main__ import main
from service.ask import Asker
from service.deadline import Deadline
from service.doctor.command import examine_service
from service.explain.over_http import explain_service
from service.explain.question import Question
from service.settings import described_settings
from service.tokens import Tokens
from snapshot.registry import Registry

WAIT_SECONDS = 30
PIPE_BYTES, LINE_BYTES = 64 * 1024, 400
"""What a pipe holds, and the least of a line in the access log."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SCALINGNOTE_")}


class Service:
    """A running ``python -m service``: its process, its log so far, and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = str(self.event("listening")["url"])

    def event(self, name: str) -> dict[str, Any]:
        """Read the log up to an event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the service ended without {name!r}")

    def get(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


MODULE = ("-m", "service")
STUCK = """
import sys, time
from service.__main__ import main
from service.queries import Queries

def one(*_):
    print('{"event": "stuck"}', file=sys.stderr, flush=True)
    yield time.sleep(600)

Queries.one = one
main()
"""
"""The service, with a worker thread that nothing interrupts, as one inside FAISS or ONNX."""


STUCK_BESIDE = """
import sys, time
import service.api.ops
from service.__main__ import main

def exposition(*_):
    print('{"event": "stuck"}', file=sys.stderr, flush=True)
    time.sleep(600)

service.api.ops._exposition = exposition
main()
"""
"""The same of a thread beside the event loop, as one that looks at a disk that stands still."""


HUNG_UP_ON_AT_START = """
import os, signal
import service.main
from service.__main__ import main

configure = service.main.configure

def configure_late(*arguments, **options):
    os.kill(os.getpid(), signal.SIGHUP)
    return configure(*arguments, **options)

service.main.configure = configure_late
main()
"""


@contextmanager
def service(registry: Path, *arguments: str, program: Sequence[str] = MODULE, **variables: str) -> Iterator[Service]:
    command = [sys.executable, *program, "--registry", str(registry), "--port", "0", *arguments]
    environment = ENVIRONMENT | variables
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Service(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def doctor_and_explain(url: str, answer: dict[str, Any]) -> None:
    """What both say of a running service."""
    found = {finding.check: finding.verdict for finding in examine_service(url, WAIT_SECONDS).findings}
    well = ("ready", "converged", "clock", "proof", "threads", "faults")
    assert {name: found[name] for name in well} == dict.fromkeys(well, "ok")
    clock = time.monotonic
    explained = explain_service(Asker(url, Deadline.after(WAIT_SECONDS * 1000, clock(), clock)), Question("apple bread"))
    assert explained.hits == [hit["id"] for hit in answer["hits"]]
    assert (explained.snapshot, explained.lost, explained.degraded) == (answer["snapshot"], [], None)


@pytest.mark.slow
def test_it_serves_and_ends_with_zero_on_sigterm(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    with service(tmp_path) as running:
        assert running.event("snapshot_serving")["snapshot"] == registry.current()
        assert running.get("/readyz")[0] == 200
        status, answer = running.get("/search", {"query": "apple bread"})
        assert (status, len(answer["hits"]), answer["snapshot"]) == (200, 10, registry.current())
        doctor_and_explain(running.url, answer)
        running.process.send_signal(signal.SIGTERM)
        assert running.event("stopped")
        assert running.process.wait(WAIT_SECONDS) == 0


@pytest.mark.slow
def test_it_answers_and_ends_though_nobody_reads_its_log(tmp_path: Path) -> None:
    make_registry(tmp_path)
    with service(tmp_path, "--access-log-sample", "1", "--drain-min-seconds", "0") as running:
        running.event("snapshot_serving")
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=WAIT_SECONDS)
        for number in range(2 * PIPE_BYTES // LINE_BYTES):
            connection.request("GET", "/livez", headers={"X-Request-ID": f"{number:0128}"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        connection.close()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(WAIT_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "asked", "thread"),
    [
        (STUCK, ("/search", {"query": "apple", "timeout_ms": 10_000}), "worker-"),
        (STUCK_BESIDE, ("/metrics",), "scrape_"),
    ],
    ids=["a worker", "beside"],
)
def test_it_ends_in_time_whatever_a_thread_is_at(tmp_path: Path, program: str, asked: tuple[Any, ...], thread: str) -> None:
    make_registry(tmp_path)
    options = ("--drain-seconds", "0.2", "--drain-min-seconds", "0")
    with service(tmp_path, *options, program=("-c", program)) as running, ThreadPoolExecutor(1) as caller:
        running.event("snapshot_serving")
        answer = caller.submit(running.get, *asked)
        running.event("stuck")
        running.process.send_signal(signal.SIGTERM)
        [stuck] = running.event("stopped")["stuck"]
        assert stuck.startswith(thread)
        assert running.process.wait(WAIT_SECONDS) == 0
        status, problem = answer.result(WAIT_SECONDS)
        assert (status, problem["code"]) == (503, "draining")


@pytest.mark.slow
def test_threads_that_are_at_nothing_end_with_it(tmp_path: Path) -> None:
    make_registry(tmp_path)
    with service(tmp_path, "--drain-min-seconds", "0") as running:
        running.event("snapshot_serving")
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=WAIT_SECONDS) as metrics:
            assert metrics.status == 200
        status, _ = running.get("/search/batch", [{"query": "apple " * 150}] * 100)
        assert status == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.event("stopped")["stuck"] == []


@pytest.mark.slow
def test_without_a_snapshot_it_starts_and_takes_the_first_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with service(tmp_path, "--follow-interval-seconds", "3600") as running:
        deadline = time.monotonic() + WAIT_SECONDS
        status, problem = running.get("/readyz")
        while "python -m offline run" not in problem["detail"] and time.monotonic() < deadline:
            status, problem = running.get("/readyz")
        assert (status, problem["code"]) == (503, "no_snapshot")
        assert "python -m offline run" in problem["detail"]
        registry.activate(make_snapshot(tmp_path).root.name, "the first one")
        running.process.send_signal(signal.SIGHUP)
        running.event("snapshot_serving")
        assert running.get("/readyz")[0] == 200


@pytest.mark.slow
def test_sighup_before_the_server_is_up_is_not_the_end(tmp_path: Path) -> None:
    with service(tmp_path, program=("-c", HUNG_UP_ON_AT_START)) as running:
        assert running.get("/livez")[0] == 200


@pytest.mark.slow
def test_a_variable_is_as_good_as_a_flag(tmp_path: Path) -> None:
    make_registry(tmp_path)
    with service(tmp_path, SCALINGNOTE_MAX_K="7") as running:
        running.event("snapshot_serving")
        assert running.get("/info")[1]["settings"]["max_k"] == 7
        assert running.get("/search", {"query": "a", "k": 8})[0] == 422


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restored_logging: None
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; exit code, standard output, standard error."""
    for name in set(os.environ) - set(ENVIRONMENT):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")

    before = signal.getsignal(signal.SIGHUP)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["service", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGHUP, before)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_a_taken_port_is_one_line_and_not_zero(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, printed = command("--registry", str(tmp_path), "--port", str(port))
    assert code == 1
    [line] = printed.splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert "--port" in line


@pytest.mark.parametrize("host", ["a" * 70, "a..b"])
def test_a_host_that_cannot_be_is_one_line(command: Callable[..., tuple[int, str, str]], tmp_path: Path, host: str) -> None:
    code, _, printed = command("--registry", str(tmp_path), "--port", "0", "--host", host)
    assert code == 1
    [line] = printed.splitlines()
    assert line.startswith(f"error: cannot listen on {host}:0 (")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["registry", "--registry", "SCALINGNOTE_REGISTRY"]),
        (["--registry", "x", "--port", "http"], ["port", "--port", "SCALINGNOTE_PORT"]),
        (["--registry", "x", "--threads", "0"], ["threads"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_two(
    command: Callable[..., tuple[int, str, str]], arguments: list[str], words: list[str]
) -> None:
    code, _, printed = command(*arguments)
    assert code == 2
    [line] = printed.splitlines()
    assert all(word in line for word in words)


def test_every_setting_is_a_flag(command: Callable[..., tuple[int, str, str]]) -> None:
    _, shown, _ = command("--help")
    for setting in described_settings():
        assert f"{setting.flag} " in shown, setting.name


def test_a_file_of_tokens_that_is_wrong_or_missing_is_a_wrong_setting(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("alice:plain-text\n")
    for path, words in ((wrong, f"{wrong}:1: not a token"), (tmp_path / "missing", "cannot be read")):
        code, _, printed = command("--registry", str(tmp_path), "--port", "0", "--admin-tokens-file", str(path))
        assert code == 2
        line = printed.splitlines()[-1]
        assert line.startswith("error: admin_tokens_file: ")
        assert words in line
        assert "SCALINGNOTE_ADMIN_TOKENS_FILE" in line


def test_a_token_is_shown_once_and_its_line_lets_it_in(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, printed, note = command("token", "alice")
    secret, line = printed.splitlines()
    assert (code, "SCALINGNOTE_ADMIN_TOKENS_FILE" in note) == (0, True)
    file = tmp_path / "tokens"
    file.write_text(line)
    assert Tokens(file).table().who(secret) == "alice"
    assert secret not in line


def test_a_token_can_be_added_to_a_file(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    secrets = [command("token", name, "--file", str(file))[1].strip() for name in ("alice", "bot")]
    table = Tokens(file).table()
    assert [table.who(secret) for secret in secrets] == ["alice", "bot"]


@pytest.mark.parametrize("name", ["", "a:b", "a b", "-a", "x" * 65])
def test_a_name_that_fits_no_line_is_refused(command: Callable[..., tuple[int, str, str]], name: str) -> None:
    code, printed, said = command("token", "--", name)
    assert (code, printed) == (1, "")
    assert said.startswith("error: ")


@pytest.mark.parametrize(("page", "begins"), [("openapi", '{\n "openapi": "3.1'), ("configuration", "# Configuration\n")])
def test_reference_pages_are_printed(command: Callable[..., tuple[int, str, str]], page: str, begins: str) -> None:
    code, printed, _ = command(page)
    assert code == 0
    assert printed.startswith(begins)
