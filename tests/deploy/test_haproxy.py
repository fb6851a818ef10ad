"""deploy/haproxy in a real HAProxy: what it passes on, what it sends elsewhere, and that replacing replicas costs no request."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import WORDS, make_snapshot

from service.settings import Settings
from snapshot.registry import Registry
from tests.balancer import COMPOSE, CONFIG, KUBERNETES, balanced, haproxy
from tests.bench.client import Sockets
from tests.bench.loads import Outcome, arriving, poisson
from tests.bench.session import search
from tests.live import Live, start, until

SETTINGS = Settings(registry=Path("registry"))
_BUSY_SECONDS = 240.0
"""What a swap and a start may take where other tests keep the cores busy."""
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class _Quiet(ThreadingHTTPServer):
    """Says nothing of connections that a balancer resets, as it does with those of its checks."""

    def handle_error(self, *_: object) -> None: ...


@dataclass
class Replica:
    """Answers every request as it is told to, and keeps their headers; ``status`` 0 breaks the connection off."""

    status: int = 200
    ready: int = 200
    seen: list[dict[str, str]] = field(default_factory=list)
    checked: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                self._answer(replica.ready)
                replica.checked.set()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                replica.seen.append(lowered(self.headers))
                if replica.status:
                    self._answer(replica.status)
                else:
                    self.close_connection = True

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None: ...

        with _Quiet(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[Replica]]]:
    """A balancer's port, and the two behind it."""
    replicas = [Replica(), Replica()]
    with ExitStack() as undo:
        for replica in replicas:
            undo.enter_context(replica.listening())
        yield undo.enter_context(balanced(tmp_path_factory.mktemp("pair"), [one.port for one in replicas])), replicas


def ask(port: int, path: str = "/search", **headers: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the answer to a search."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", b'{"query": "apple"}', names)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, lowered(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, lowered(error.headers), json.load(error)


def lowered(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def answering(replicas: list[Replica], *statuses: int) -> None:
    for replica, status in zip(replicas, statuses, strict=True):
        replica.status = status
        replica.seen.clear()


def test_deadline_request_id_and_trace_reach_the_replica(pair: tuple[int, list[Replica]]) -> None:
    port, replicas = pair
    answering(replicas, 200, 200)
    assert ask(port, request_timeout_ms="250", x_request_id="mine-1", traceparent=_TRACE)[0] == 200
    assert ask(port)[0] == 200
    given, made = (found for replica in replicas for found in replica.seen)
    if "request-timeout-ms" not in given:
        given, made = made, given
    assert (given["request-timeout-ms"], given["x-request-id"], given["traceparent"]) == ("250", "mine-1", _TRACE)
    assert re.fullmatch(r"[0-9a-f-]{36}", made["x-request-id"])
    assert made["x-forwarded-for"] == "127.0.0.1"


def test_a_503_is_asked_elsewhere_and_the_caller_sees_none(pair: tuple[int, list[Replica]]) -> None:
    port, replicas = pair
    answering(replicas, 503, 200)
    assert {ask(port)[0] for _ in range(8)} == {200}
    assert len(replicas[0].seen) >= 1
    assert len(replicas[1].seen) == 8


@pytest.mark.parametrize("status", [429, 500, 504])
def test_what_was_worked_on_or_shed_is_not_asked_again(pair: tuple[int, list[Replica]], status: int) -> None:
    port, replicas = pair
    answering(replicas, status, status)
    assert ask(port)[0] == status
    assert sum(len(replica.seen) for replica in replicas) == 1


def test_a_connection_that_breaks_after_the_request_is_not_asked_again(pair: tuple[int, list[Replica]]) -> None:
    port, replicas = pair
    answering(replicas, 0, 0)
    status, headers, body = ask(port, x_request_id='odd"id')
    assert (status, body["status"], body["code"]) == (502, 502, "bad_gateway")
    assert headers["content-type"] == "application/problem+json"
    assert body["request_id"] == headers["x-request-id"] == 'odd"id'
    assert sum(len(replica.seen) for replica in replicas) == 1


@pytest.mark.parametrize("budget_ms", ["200", "200.5"])
def test_a_replica_that_is_stopped_costs_a_caller_its_own_budget_and_a_second(tmp_path: Path, budget_ms: str) -> None:
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()"
    with subprocess.Popen([sys.executable, "-c", listen], stdout=subprocess.PIPE, text=True) as replica:
        try:
            assert replica.stdout is not None
            where = int(replica.stdout.readline())
            replica.send_signal(signal.SIGSTOP)  # the kernel goes on taking its connections
            with balanced(tmp_path, [where], "") as port:
                begun = time.monotonic()
                status, _, body = ask(port, request_timeout_ms=budget_ms)
                seconds = time.monotonic() - begun
        finally:
            replica.kill()
    assert (status, body["code"]) == (504, "gateway_timeout")
    assert 1.2 <= seconds < 8  # not 11


@pytest.mark.parametrize("budget_ms", ["10000", "0", "-5", "1e3", "soon", ""])
def test_another_budget_changes_no_wait(pair: tuple[int, list[Replica]], budget_ms: str) -> None:
    port, replicas = pair
    answering(replicas, 200, 200)
    assert ask(port, request_timeout_ms=budget_ms)[0] == 200


def test_operators_routes_are_not_reached_through_it(pair: tuple[int, list[Replica]]) -> None:
    port, replicas = pair
    answering(replicas, 200, 200)
    for path in (
        "/snapshots",
        "/snapshots/rollback",
        "/snapshots/A/activate",
        "/metrics",
        "/history",
        "/%6detrics",
        "/%73napshots",
    ):
        assert ask(port, path)[0] == 404
    assert not any(replica.seen for replica in replicas)


def test_without_a_ready_replica_it_says_so_in_the_shape_of_every_error(tmp_path: Path) -> None:
    replica = Replica(ready=503)
    with replica.listening(), balanced(tmp_path, [replica.port], "check init-addr last inter 20ms") as port:
        assert replica.checked.wait(30)
        found = next(one for one in iter(lambda: ask(port), None) if one[0] not in (200, 502))  # 502: asked as it is marked down
    status, headers, body = found
    assert (status, body["code"], headers["retry-after"]) == (503, "no_replica", "1")
    assert body["type"] == "urn:scalingnote:problem:no_replica"


def test_it_is_ready_itself_while_a_replica_is(pair: tuple[int, list[Replica]], tmp_path: Path) -> None:
    def status(port: int) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/balancerz", timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status(pair[0]) == 200
    replica = Replica(ready=503)
    with replica.listening(), balanced(tmp_path, [replica.port], "check inter 20ms") as port:
        assert next(one for one in iter(lambda: status(port), None) if one != 200) == 503


def test_its_figures_fit_the_settings_of_the_service() -> None:
    text = re.sub(r"#.*", "", CONFIG.read_text())

    def ms(pattern: str) -> float:
        found = re.search(pattern + r" (\d+)(ms|s)", text)
        assert found, pattern
        return int(found[1]) * (1.0 if found[2] == "ms" else 1000.0)

    size = re.search(r"tune\.bufsize (\d+)", text)
    checks = re.search(r"inter (\d+)ms fall (\d+)", text)
    assert size
    assert checks
    assert int(size[1]) >= SETTINGS.max_body_bytes + 16_384
    assert int(checks[1]) * (int(checks[2]) + 1) <= SETTINGS.drain_min_seconds * 1e3
    assert ms("timeout server") > SETTINGS.max_timeout_ms
    assert ms("timeout http-keep-alive") < SETTINGS.keep_alive_seconds * 1e3


@pytest.mark.parametrize("backend", [COMPOSE, KUBERNETES], ids=lambda path: path.stem)
def test_where_the_replicas_are_is_understood(backend: Path) -> None:
    subprocess.run([haproxy(), "-c", "-f", str(CONFIG), "-f", str(backend)], check=True, capture_output=True)


class Load(threading.Thread):
    """Searches at a steady pace, whatever becomes of them, until the block ends."""

    def __init__(self, port: int, per_second: float) -> None:
        super().__init__(name="load")
        self._port = port
        self._plan = poisson([search(word) for word in WORDS], per_second, 300, seed=0)
        self._over = threading.Event()
        self.outcomes: list[Outcome] = []
        self.snapshots: set[str] = set()

    def run(self) -> None:
        with Sockets(self._port, 32) as wire:
            for outcome in arriving(wire, 32, self._plan, time.monotonic, self._over.is_set):
                self.outcomes.append(outcome)
                if outcome.status == 200:
                    self.snapshots.add(json.loads(outcome.body)["snapshot"])

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@dataclass
class Fleet:
    """Services over one registry, as one restarts them: the next when the balancer has seen the last one ready again."""

    folder: Path
    registry: Registry
    log: Path
    lives: list[Live] = field(default_factory=list)

    def start(self, port: int | None = None) -> Live:
        flags = {"threads": 1, "drain-min-seconds": SETTINGS.drain_min_seconds, "swap-cpu-share": 1, "query-cache-bytes": 0}
        return start(self.folder, self.registry.root, *(f"--{name}={value}" for name, value in flags.items()), port=port)

    def swap(self, snapshot: str) -> None:
        self.registry.activate(snapshot, "for a test", who="tests")
        for live in self.lives:
            until(live, lambda live=live: live.get("/info")[1]["serving"] == snapshot, "serving the other one", _BUSY_SECONDS)

    def restart(self, number: int) -> None:
        seen = self.ups(number)
        assert self.lives[number].stop() == 0
        self.lives[number] = after = self.start(self.lives[number].port)
        until(after, lambda: self.ups(number) > seen, "seen ready by the balancer", _BUSY_SECONDS)

    def ups(self, number: int) -> int:
        return self.log.read_text().count(f"Server replicas/replica{number} is UP")

    def stop(self) -> None:
        for live in self.lives:
            live.stop()


@pytest.mark.slow
def test_a_rolling_swap_and_a_rolling_restart_lose_no_request(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    first, second = (registry.publish(make_snapshot(tmp_path / "made", seed=seed).root).id for seed in (0, 1))
    registry.activate(first, "for a test", who="tests")
    fleet = Fleet(tmp_path, registry, tmp_path / "haproxy.log")
    with ExitStack() as undo:
        undo.callback(fleet.stop)
        fleet.lives += [fleet.start(), fleet.start()]
        for live in fleet.lives:
            until(live, live.ready, "ready")
        port = undo.enter_context(balanced(tmp_path, [live.port for live in fleet.lives]))
        with Load(port, per_second=20) as load:
            until(fleet.lives[0], lambda: load.outcomes, "asked")
            fleet.swap(second)
            fleet.restart(0)
            fleet.restart(1)
            asked = len(load.outcomes)
            until(fleet.lives[1], lambda: len(load.outcomes) > asked + 20, "asked again")
    failed = [(outcome.status, outcome.body[:200], outcome.due) for outcome in load.outcomes if outcome.status != 200]
    assert not failed
    assert load.snapshots == {first, second}
