"""``python -m service key`` beside a service that runs: what is made opens it, what is revoked does not."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import live
import pytest
from serving import make_registry

from service.__main__ import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``python -m service key …``; its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["service", "key", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_a_key_is_shown_once_listed_without_its_hash_and_revoked(command: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "keys")
    code, secret, note = command("new", "web", "--file", file, "--scope", "search", "--rate", "2.5", "--days", "30")
    assert code == 0
    assert secret.startswith("snk_")
    assert "shown only here" in note
    assert command("new", "bot", "--file", file)[0] == 0
    listed = json.loads(command("list", "--file", file, "--json")[1])
    assert [entry["name"] for entry in listed] == ["web", "bot"]
    assert (listed[0]["scopes"], listed[0]["rate_per_second"], listed[0]["burst"]) == (["search"], 2.5, 3)
    assert (listed[1]["scopes"], listed[1]["rate_per_second"], listed[1]["expires_at"]) == (["search", "embed"], None, None)
    table = command("list", "--file", file)[1]
    assert "2.5/s" in table
    assert secret.strip() not in table + (tmp_path / "keys").read_text()
    assert "web is revoked" in command("revoke", "web", "--file", file)[1]
    assert [entry["name"] for entry in json.loads(command("list", "--file", file, "--json")[1])] == ["bot"]


def test_the_file_may_be_named_as_the_service_names_it(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALINGNOTE_API_KEYS_FILE", str(tmp_path / "keys"))
    assert command("new", "web")[0] == 0
    assert (tmp_path / "keys").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "a b"), "name: 1 to 64 of"),
        (("new", "web", "--scope", "admin"), "scopes.0: Input should be 'search' or 'embed'"),
        (("new", "web", "--rate", "0"), "rate_per_second: "),
        (("new", "web", "--burst", "3"), "burst: means nothing without rate_per_second"),
        (("revoke", "web"), "no key of the name 'web'; there are: none"),
        (("list",), "python -m service key new NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_one_line(command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    code, _, said = command(*arguments, "--file", str(tmp_path / "keys"))
    [line] = said.splitlines()
    assert code == 1
    assert line.startswith("error: ")
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("restored_logging")
def test_a_service_that_is_given_a_wrong_file_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("web:secret\n")
    monkeypatch.setattr(sys, "argv", ["service", "--registry", str(tmp_path), "--port", "0", "--api-keys-file", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"error: api_keys_file: {file}:1: not a JSON object of a key")
    assert "SCALINGNOTE_API_KEYS_FILE" in line


@pytest.mark.slow
def test_a_running_service_follows_the_file(command: Command, tmp_path: Path) -> None:
    make_registry(tmp_path / "registry")
    file = tmp_path / "keys"
    command("new", "first", "--file", str(file))
    patient = ("--default-timeout-ms", "30000", "--max-timeout-ms", "60000")
    service = live.start(tmp_path, tmp_path / "registry", "--api-keys-file", str(file), *patient)
    try:
        live.until(service, service.ready, "ready")
        slow = command("new", "slow", "--file", str(file), "--rate", "0.001", "--burst", "2")[1].strip()
        secret = command("new", "web", "--file", str(file))[1].strip()
        live.until(service, lambda: _status(service.port, secret) == 200, "letting a new key in")
        assert _status(service.port, "snk_wrong") == 401
        assert [_status(service.port, slow) for _ in range(3)] == [200, 200, 429]
        assert b"401" in _answer_to_an_unfinished_upload(service.port)
        command("revoke", "web", "--file", str(file))
        live.until(service, lambda: _status(service.port, secret) == 401, "refusing a revoked key")
    finally:
        assert service.stop() == 0


def _status(port: int, key: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/search", b'{"query": "apple"}', {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _answer_to_an_unfinished_upload(port: int) -> bytes:
    """The status line that comes before the body does."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{")
        return connection.recv(1024).splitlines()[0]
