"""Nothing from a request reaches a path, a format string or a log unescaped."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from make_snapshot import make_oracle
from serving import TOKEN, Client, assert_problem, client_of, make_registry, tokens_file

from service.logs import configure
from service.settings import LogFormat

BEARER = [(b"authorization", f"Bearer {TOKEN}".encode())]
PATIENT = {"default_timeout_ms": 30_000, "max_timeout_ms": 60_000}
FORGED = 'x\r\n2026-01-01T00:00:00Z [info] admin_call who=root\n{"level": "info", "event": "forged"}'
CONTROLS = ("\x1b[2Jcleared", "\x1b]0;title\x07", "a\rb", "a\nb", "\x9b31m", "a\u2028b", "\u202egnp.exe", "a\x00b", "tab\there")
BRACES = ("{0.__class__}", "{request}", "%s%n%x", "%(levelname)s", "${jndi:ldap://x}", "{{7*7}}", "{text}", "\\u0041", "{" * 50)
OUTSIDE = (
    *("..", "../..", "..%2f..%2fetc", "%2e%2e", "....//", ".lock", "pins", "CURRENT", "history.jsonl", "current"),
    *(
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\share",
        "a/../b",
        "a\x00b",
        "~",
        "-rf",
        " ",
        "a b",
        "é",
        "a" * 129,
        ".hidden",
        "%00",
        "*",
    ),
)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """A service whose registry lies beside what strangers must not reach."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    registry = folder / "registry"
    make_registry(registry, rows=20)
    (folder / "secret").mkdir()
    (folder / "secret" / "manifest.json").write_text('{"secret": "confidential"}')
    with client_of(registry, admin_tokens_file=tokens_file(folder), access_log_sample=1.0, **PATIENT) as client:
        yield client, registry


def written(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("given", [*OUTSIDE, "../secret", *CONTROLS])
def test_no_id_in_a_url_leads_out_of_the_registry(operator: tuple[Client, Path], given: str) -> None:
    client, registry = operator
    before, serving = written(registry.parent), client.parts.generations.serving
    for method, path, body in (
        ("GET", f"/snapshots/{given}/gate", None),
        ("GET", f"/snapshots/{given}/diff/{serving}", None),
        ("GET", f"/snapshots/{serving}/diff/{given}", None),
        ("POST", f"/snapshots/{given}/activate", {"why": "x", "force": True}),
        ("POST", f"/snapshots/{given}/search", {"query": "apple"}),
    ):
        status, answer = ask(client, method, path, BEARER, body)
        problem = json.loads(answer)
        assert (status, problem["code"]) == (404, "not_found")
        assert "confidential" not in problem["detail"]
        assert "Errno" not in problem["detail"]
    assert written(registry.parent) == before
    assert client.parts.generations.serving == serving


@pytest.mark.parametrize("given", ["../secret", "..\\secret", "/etc/passwd", "file:///etc/passwd", *BRACES])
def test_no_file_is_named_by_a_body(operator: tuple[Client, Path], given: str) -> None:
    client, _ = operator
    fields = client.post("/search", {"query": "apple", "fields": [given]})
    assert assert_problem(fields, 422, "request_invalid")["errors"][0]["path"] == "fields.0"
    column = client.post("/search", {"query": "apple", "filter": {given: 1}})
    assert given in assert_problem(column, 422, "request_invalid")["detail"] or "\\" in given


@pytest.mark.parametrize("given", BRACES)
def test_a_query_with_braces_is_a_query(client: Client, given: str) -> None:
    """The oracle takes it for a word that it does not know."""
    oracle = make_oracle()
    answer = client.post("/search", {"query": f"{given} apple", "k": 5, "exact": True, "timeout_ms": 10_000}).json()
    expected = [f"doc-{row}" for row in oracle.rows([f"{given} apple"], 5)[0]]
    assert [hit["id"] for hit in answer["hits"]] == expected
    vectors = client.post("/embed", {"query": f"{given} apple", "timeout_ms": 10_000}).json()["vectors"]
    assert float(oracle.encode([f"{given} apple"])[0] @ vectors[0]) > 0.9999
    filtered = client.post("/search", {"query": "apple", "filter": {"kind": given}, "timeout_ms": 10_000})
    assert (filtered.status_code, filtered.json()["hits"]) == (200, [])


def lines_of(form: LogFormat, folder: Path, send: Callable[[Client], object], *, queries: bool = False) -> list[str]:
    """The log of a service to which ``send`` sent something hostile."""
    stream = io.StringIO()
    make_registry(folder, rows=20)
    with client_of(folder, admin_tokens_file=tokens_file(folder), access_log_sample=1.0, **PATIENT) as client:
        configure("info", form, stream, queries=queries)
        send(client)
        return stream.getvalue().removesuffix("\n").split("\n")


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_is_sent_neither_begins_a_line_of_the_log_nor_moves_its_cursor(form: LogFormat, tmp_path: Path) -> None:
    sent = [FORGED, *CONTROLS, *BRACES]

    def send(client: Client) -> None:
        for given in sent:
            header = given.encode()
            for path in (f"/snapshots/{given}/gate", f"/snapshots/{given}/diff/x", f"/{given}"):
                ask(client, "GET", path, BEARER)
            ask(client, "POST", f"/snapshots/{given}/activate", BEARER, {"why": given})
            raw = [(b"x-request-id", header), (b"traceparent", header), (b"authorization", b"Bearer " + header)]
            for path in ("/livez", "/snapshots"):
                ask(client, "GET", path, raw)

    lines = lines_of(form, tmp_path, send)
    assert [line for line in lines if not line.isprintable()] == []
    routed = [given for given in sent if "/" not in given]  # the others are ids of no route
    assert len(lines) == 6 * len(sent) + 1 + 3 * len(routed)  # 1: what a stranger may not is told once, then counted
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert {event["event"] for event in events} == {"request", "admin_call"}
        assert {event.get("snapshot") for event in events} == {*routed, None}
        assert {event["request_id"] for event in events}.isdisjoint(sent)
    else:
        assert all(re.match(r"\S+Z \[(info|warning) +\] (request|admin_call) ", line) for line in lines)


def ask(client: Client, method: str, path: str, headers: list[tuple[bytes, bytes]], body: object = None) -> tuple[int, bytes]:
    """Status and body of an answer; path and headers come as our server passes on what no client library would send."""
    content, sent = b"" if body is None else json.dumps(body).encode(), []

    left = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()  # the caller stays
        return left.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": quote(path).encode(),
        "headers": headers,
        "query_string": b"",
    }
    asyncio.run(client.app({**scope, "scheme": "http", "root_path": "", "http_version": "1.1", "server": None}, receive, send))
    assert not [value for _, value in sent[0]["headers"] if b"\r" in value or b"\n" in value]
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.usefixtures("restored_logging")
def test_a_traceback_is_lines_of_ours_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(client: Client) -> None:
        generation = client.parts.generations.current
        assert generation is not None

        def fail(*_: object) -> None:
            raise ValueError("\x1b[2J\rforged")

        monkeypatch.setattr(type(generation.engine), "search", fail)
        assert ask(client, "POST", "/search", [], {"query": "apple"})[0] == 500

    lines = lines_of("text", tmp_path, send, queries=True)
    assert "    ValueError: \\x1b[2J\\rforged" in lines
    assert [line for line in lines if not line.isprintable()] == []
