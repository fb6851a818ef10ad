"""Asking a service that answers wholly, not wholly, too late or not at all."""

from __future__ import annotations

import codecs
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.ask import Asker, read_key
from service.deadline import Deadline
from service.errors import UnreachableError


class Clock:
    """Moves by a second each time that it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@contextmanager
def server(answer: bytes, heard: list[bytes] | None = None) -> Iterator[str]:
    """Reads a request into ``heard``, sends ``answer`` and closes; its URL."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            (heard if heard is not None else []).append(connection.recv(65536))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/base/"
        thread.join()


def asker(url: str, budget_ms: float = 30_000.0) -> Asker:
    clock = Clock()
    return Asker(url, Deadline.after(budget_ms, 0.0, clock), now=lambda: 5.0)


def whole(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nX-Name: a value\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


@pytest.mark.parametrize(("line", "status"), [("200 OK", 200), ("503 Service Unavailable", 503)])
def test_every_status_is_an_answer(line: str, status: int) -> None:
    with server(whole(line, b'{"code": "a"}')) as url:
        reply = asker(url).get("/info")
    assert (reply.status, reply.json(), reply.headers["x-name"], reply.answered_at) == (status, {"code": "a"}, "a value", 5.0)
    assert reply.url.endswith("/base/info")


def test_a_key_is_read_from_its_file_and_sent_with_searches_which_no_user_makes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(codecs.BOM_UTF8 + b"sn_secret\r\n")  # as an editor of Windows leaves it
    heard: list[bytes] = []
    with server(whole("200 OK", b"{}"), heard) as url:
        clock = Clock()
        Asker(url, Deadline.after(30_000.0, 0.0, clock), read_key(file)).post("/search", {})
    assert b"x-api-key: sn_secret\r\n" in heard[0].lower()
    assert b"x-synthetic-request: 1\r\n" in heard[0].lower()
    assert read_key(None) is None
    for content in (b"", b"a\nb", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(UnreachableError, match="holds no API key"):
            read_key(file)
    with pytest.raises(UnreachableError, match="holds no API key"):
        read_key(tmp_path / "missing")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]"])
def test_what_is_no_object_is_another_server(body: bytes) -> None:
    with server(whole("200 OK", body)) as url, pytest.raises(UnreachableError, match="look at the URL"):
        asker(url).get("/info").json()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", whole("200 OK", b"{}")[:-1], whole("200 OK", b"{}")[:20]])
def test_half_an_answer_is_none(answer: bytes) -> None:
    with server(answer) as url, pytest.raises(UnreachableError, match=r"no answer|broke off|without JSON"):
        asker(url).post("/search", {"query": "a"}).json()


def test_a_body_that_drips_beyond_the_deadline_is_given_up() -> None:
    with server(whole("200 OK", b"{}")) as url, pytest.raises(UnreachableError, match="not whole in time"):
        asker(url, budget_ms=2_000.0).get("/info")


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UnreachableError, match="no user and no password") as refused:
        asker("http://me:secret@localhost:8000/base")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "unix:/run/socket"])
def test_only_http_is_asked(url: str) -> None:
    with pytest.raises(UnreachableError, match="not the URL of a service"):
        asker(url)


def test_nothing_is_asked_once_the_time_is_over() -> None:
    with pytest.raises(UnreachableError, match="not asked"):
        asker("http://127.0.0.1:1", budget_ms=500.0).get("/info")
