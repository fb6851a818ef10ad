"""What services say of themselves, asked over HTTP, and the table made of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot
from serving import composed
from typer.testing import CliRunner

from service.app import create_app
from snapshot import fleet
from snapshot.__main__ import app
from snapshot.errors import FleetError, ReplicaError
from snapshot.fleet import Replica, agree, look_at, replicas
from snapshot.registry import Registry
from tests.live import free_port


@contextmanager
def answering(status: int, body: Any) -> Iterator[str]:
    """The address of a server that gives one answer, and keeps what it was told in ``told``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real service says."""
    folder = tmp_path_factory.mktemp("registry")
    Registry(folder).activate(make_snapshot(folder, rows=20).root.name, "", who="tests")
    with composed(folder) as parts:
        from fastapi.testclient import TestClient

        found: dict[str, Any] = TestClient(create_app(parts)).get("/info").json()
    return found


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["fleet", *arguments])


def test_a_fleet_that_agrees_is_a_table_and_exit_code_0(info: dict[str, Any]) -> None:
    with answering(200, info) as first, answering(200, info) as second:
        shown = run("--service", first, "--service", f"{second}/")
        listed = json.loads(run("--service", first, "--service", second, "--json").stdout)
    assert shown.exit_code == 0, shown.output
    assert "2 services serve the same" in shown.stdout
    assert shown.stdout.count(info["serving"]) == 4
    assert listed["agree"] is True
    [row, _] = listed["services"]
    assert (row["url"], row["serving"], row["version"], row["in_flight"]) == (first, info["serving"], info["version"], 0)
    assert row["age_seconds"] >= 0


def test_one_that_serves_another_or_is_out_of_reach_is_exit_code_1_and_a_clear_row(info: dict[str, Any]) -> None:
    other = {**info, "serving": "20200101T000000Z-00000000"}
    gone = f"http://127.0.0.1:{free_port()}"
    with answering(200, info) as first, answering(200, other) as second:
        assert run("--service", first, "--service", second).exit_code == 1
        shown = run("--service", first, "--service", gone)
    assert shown.exit_code == 1
    assert "unreachable" in shown.stdout
    assert f"{gone}: out of reach" in shown.stdout.replace("\n", "")


def test_what_is_tried_or_failed_is_remarked(info: dict[str, Any]) -> None:
    trial = {"snapshot": "tried", "instead_of": None, "who": "ann", "why": "", "ends_in_seconds": 9}
    failure = {"snapshot": "tried", "code": "hash_mismatch", "reason": "spoilt", "at": "now", "attempts": 1}
    with answering(200, {**info, "trial": trial, "desired": "tried", "last_error": failure}) as url:
        shown = run("--service", url)
        [seen] = look_at([Replica(url)])
    assert shown.exit_code == 1
    assert "tries tried ahead of its registry. hash_mismatch: spoilt." in shown.stdout
    assert not agree([seen])


@pytest.mark.parametrize("body", [b"<html>", {}, b""])
def test_what_is_no_service_is_told_apart(body: Any) -> None:
    with answering(200, body) as url, pytest.raises(ReplicaError, match="/info is not that of this service"):
        Replica(url).look()


def test_a_refusal_comes_with_its_code_and_reason() -> None:
    problem = {"code": "admin_disabled", "detail": "operators' routes are off"}
    with answering(404, problem) as url, pytest.raises(ReplicaError, match="404 admin_disabled: operators' routes are off"):
        Replica(url).tell("/snapshots/A/try", {}, "secret")
    with answering(502, b"<html>\n") as url, pytest.raises(ReplicaError, match="502 <html>"):
        Replica(url).tell("/snapshots/A/try", {}, "secret")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://host/path", "http://host:port", "http://h?q=1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(FleetError, match="write it as http://HOST:8000"):
        replicas([url])


def test_a_name_with_several_addresses_is_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 8000)) for address in ("10.0.0.12", "10.0.0.7", "10.0.0.12")]
    monkeypatch.setattr(fleet.socket, "getaddrinfo", lambda *_: found)
    assert [one.url for one in replicas(["http://replicas:8000"])] == ["http://10.0.0.7:8000", "http://10.0.0.12:8000"]
    assert [one.url for one in replicas(["https://replicas"])] == ["https://replicas"]
    with pytest.raises(FleetError, match="named twice"):
        replicas(["http://10.0.0.7:8000", "http://replicas:8000"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wave", "1,100%"], "--token-file"),
        (["--wave", "1,100%", "--token-file", "TOKEN"], "name each with: --service"),
        (["--wave", "1", "--token-file", "TOKEN", "--service", "http://127.0.0.1:1", "--service", "http://127.0.0.2:1"], "100%"),
        (["--service", "http://127.0.0.1:1"], "--wave 1,100%"),
        (["--wave", "1,100%", "--force"], "--why"),
    ],
)
def test_waves_that_cannot_be_begun_say_what_is_missing(tmp_path: Path, arguments: list[str], said: str) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    given = [str(token) if one == "TOKEN" else one for one in arguments]
    done = CliRunner().invoke(app, ["activate", "20260101T000000Z-aaaaaaaa", "--registry", str(tmp_path), *given])
    assert isinstance(done.exception, FleetError | Exception)
    assert said in str(done.exception)
