"""What services say of themselves, asked over HTTP, and the table made of it."""

from __future__ import annotations

import codecs
import itertools
import json
import socket
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
from snapshot.errors import FleetError, ReplicaError, ReplicaRefusedError, WaveError
from snapshot.fleet import Replica, agree, look_at, replicas
from snapshot.registry import Registry
from tests.live import free_port


@contextmanager
def answering(status: int, body: Any) -> Iterator[str]:
    """The address of a server that gives one answer, or one after the other of an iterator's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = next(body) if isinstance(body, Iterator) else body
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
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
    with answering(200, info) as first, answering(200, {**info, "instance": "another"}) as second:
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
    other = {**info, "serving": "20200101T000000Z-00000000", "instance": "another"}
    gone = f"http://127.0.0.1:{free_port()}"
    with answering(200, info) as first, answering(200, other) as second:
        assert run("--service", first, "--service", second).exit_code == 1
        shown = run("--service", first, "--service", gone)
    assert shown.exit_code == 1
    assert "unreachable" in shown.stdout
    assert f"{gone}: out of reach" in shown.stdout.replace("\n", "")


def test_one_service_under_two_names_is_refused(info: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with answering(200, info) as url:
        alias = url.replace("127.0.0.1", "localhost")
        shown = run("--service", url, "--service", alias)
        arguments = ["--token-file", str(tmp_path / "token"), "--service", url, "--service", alias, "--wave", "100%"]
        waved = CliRunner().invoke(app, ["activate", info["serving"], "--registry", str(tmp_path), *arguments])
    assert isinstance(shown.exception, FleetError)
    assert f"{url} and {alias} are one service; name each once" in str(shown.exception)
    assert isinstance(waved.exception, WaveError)
    assert "are one service; name each once, by its own address. No service has begun" in str(waved.exception)


def test_a_service_that_answers_no_search_says_why(info: dict[str, Any]) -> None:
    engine = {"state": "open", "code": "engine_unavailable", "reason": "http://db:19530: refused"}
    with answering(200, {**info, "engine": engine}) as url:
        shown = run("--service", url).stdout
        [row] = json.loads(run("--service", url, "--json").stdout)["services"]
    assert "no search is answered" in shown
    assert row["engine_error"] == "engine_unavailable: http://db:19530: refused"


def test_a_balancer_in_place_of_services_is_refused(info: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with answering(200, itertools.cycle([info, {**info, "instance": "another"}])) as url:
        shown = run("--service", url)
        arguments = ["--token-file", str(tmp_path / "token"), "--service", url, "--wave", "100%"]
        waved = CliRunner().invoke(app, ["activate", info["serving"], "--registry", str(tmp_path), *arguments])
    for failed, kind in ((shown, FleetError), (waved, WaveError)):
        assert isinstance(failed.exception, kind)
        assert f"{url} answers as several services: a balancer's" in str(failed.exception)


def test_a_proxy_of_the_environment_is_not_asked(info: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(200, info) as url:
        assert Replica(url).look().serving == info["serving"]


def test_versions_that_do_not_say_which_process_they_are_are_taken_as_named(info: dict[str, Any]) -> None:
    earlier = {name: value for name, value in info.items() if name != "instance"}
    with answering(200, earlier) as first, answering(200, earlier) as second:
        assert run("--service", first, "--service", second).exit_code == 0


def test_a_name_that_cannot_be_resolved_is_a_row_beside_the_others(info: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with answering(200, info) as url:
        monkeypatch.setattr(fleet.socket, "getaddrinfo", unknown)
        nowhere = replicas(["http://nowhere.invalid:8000"])
        monkeypatch.undo()  # whatever it stands for later, it was not looked at
        [there, missing] = look_at([*replicas([url]), *nowhere])
    assert not isinstance(there, ReplicaError)
    assert (
        str(missing)
        == "http://nowhere.invalid:8000: nowhere.invalid cannot be resolved (Name or service not known); check the name"
    )
    assert not agree([there, missing])


@pytest.mark.parametrize("said", [b"\x00\x00\x06\x04\x1b[2J\xff\r\n\r\n", b"HTTP/1.1 502 \x1b]0;x\r\n\r\n\x1b[31mno"])
def test_what_answers_in_another_protocol_does_not_reach_the_terminal(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(said)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ReplicaError) as caught:
            Replica(f"http://127.0.0.1:{listening.getsockname()[1]}").look()
        thread.join()
    assert str(caught.value).isprintable()
    assert "\N{REPLACEMENT CHARACTER}[" in str(caught.value)


def test_reasons_that_hold_control_characters_are_shown_as_text(info: dict[str, Any]) -> None:
    failure = {"snapshot": "A", "code": "no\x1b[2J", "reason": "a\nb", "at": "now", "attempts": 1}
    with answering(200, {**info, "last_error": failure}) as url:
        [seen] = look_at([Replica(url)])
    assert not isinstance(seen, ReplicaError)
    assert (seen.error_code, seen.error) == ("no\N{REPLACEMENT CHARACTER}[2J", "a\N{REPLACEMENT CHARACTER}b")


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
    with (
        answering(404, problem) as url,
        pytest.raises(ReplicaRefusedError, match="404 admin_disabled: operators' routes are off"),
    ):
        Replica(url).tell("/snapshots/A/try", {}, "secret")
    with answering(502, b"<html>\n") as url, pytest.raises(ReplicaError, match="502 <html>") as caught:
        Replica(url).tell("/snapshots/A/try", {}, "secret")
    assert not isinstance(caught.value, ReplicaRefusedError)  # what stands between has given up waiting; it may have begun


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://host", "http://", "http://host/path", "http://host:port", "http://h?q=1"),
        *("http://a..b:8000", f"https://{'a' * 64}.example:8000", "http://u:sesame@10.0.0.7:8000"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(FleetError, match="write it as http://HOST:8000") as caught:
        replicas([url])
    assert "sesame" not in str(caught.value)


def test_a_name_with_several_addresses_is_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Any, ...]] = [(0, 0, 0, "", (address, 8000)) for address in ("10.0.0.12", "10.0.0.7", "10.0.0.12")]
    monkeypatch.setattr(fleet.socket, "getaddrinfo", lambda *_: found)
    assert [one.url for one in replicas(["http://replicas:8000"])] == ["http://10.0.0.7:8000", "http://10.0.0.12:8000"]
    found += [(0, 0, 0, "", ("fd00::7", 8000, 0, 0)), (0, 0, 0, "", ("fd00::12", 8000, 0, 0))]
    assert len(replicas(["http://replicas:8000"])) == 2, "those of one family: the same services"
    assert [one.url for one in replicas(["https://replicas"])] == ["https://replicas"]
    with pytest.raises(FleetError, match="named twice"):
        replicas(["http://10.0.0.7:8000", "http://replicas:8000"])


def test_a_name_with_addresses_of_ipv6_alone_is_all_of_them_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 8000, 0, 0)) for address in ("fd00::12", "fd00::7")]
    monkeypatch.setattr(fleet.socket, "getaddrinfo", lambda *_: found)
    assert [one.url for one in replicas(["http://replicas:8000"])] == ["http://[fd00::7]:8000", "http://[fd00::12]:8000"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wave", "1,100%"], "--token-file"),
        (["--wave", "1,100%", "--token-file", "TOKEN"], "name each with: --service"),
        (["--wave", "1", "--token-file", "TOKEN", "--service", "http://127.0.0.1:1", "--service", "http://127.0.0.2:1"], "100%"),
        (["--service", "http://127.0.0.1:1"], "--wave 1,100%"),
        (["--token-file", "TOKEN"], "--wave 1,100%"),
        (["--wave", "1,100%", "--force"], "--why"),
    ],
)
def test_waves_that_cannot_be_begun_say_what_is_missing(tmp_path: Path, arguments: list[str], said: str) -> None:
    token = tmp_path / "token"
    token.write_bytes(codecs.BOM_UTF8 + b"secret\r\n")  # as an editor of Windows leaves it
    given = [str(token) if one == "TOKEN" else one for one in arguments]
    done = CliRunner().invoke(app, ["activate", "20260101T000000Z-aaaaaaaa", "--registry", str(tmp_path), *given])
    assert isinstance(done.exception, FleetError | Exception)
    assert said in str(done.exception)
