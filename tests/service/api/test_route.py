"""Bodies are limited while they are read, in size and in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from manual_clock import ManualClock
from pydantic import TypeAdapter, ValidationError
from serving import TOKEN, Client, assert_problem, client_of, tokens_file
from starlette.types import Receive

from service.api.call import Call
from service.api.route import read
from service.api.schemas import BatchBody, Texts
from service.errors import BodyTimeoutError, BodyTooLargeError, CallerGoneError, OverloadedError
from service.long_bodies import LONG_BYTES, LongBodies
from service.scopes import EXTENSION
from service.walk import Caller

MIB = 1 << 20
SCOPE: dict[str, Any] = {"type": "http"}


def body_of(messages: list[dict[str, Any]]) -> tuple[Receive, list[int]]:
    """A body that arrives as ``messages``, then never ends; and a count of what was received."""
    received = [0]

    async def receive() -> dict[str, Any]:
        if received[0] == len(messages):
            await asyncio.Event().wait()
        received[0] += 1
        return messages[received[0] - 1]

    return receive, received


def chunk(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_one_piece_and_in_many() -> None:
    whole, _ = body_of([chunk(b"abc", more=False)])
    assert asyncio.run(read(SCOPE, whole, 0, 3, 1000)) == b"abc"
    pieces, _ = body_of([chunk(b"a", more=True), chunk(b"b", more=True), chunk(b"c", more=False)])
    assert asyncio.run(read(SCOPE, pieces, 0, 3, 1000)) == b"abc"
    nothing, _ = body_of([{"type": "http.request"}])
    assert asyncio.run(read(SCOPE, nothing, 0, 3, 1000)) == b""


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"ab", b"cd"], [b"abc", b"d"], [b"abcdef", b""]])
def test_a_byte_too_many_is_refused_however_it_comes(pieces: list[bytes]) -> None:
    messages = [chunk(piece, more=i < len(pieces) - 1) for i, piece in enumerate(pieces)]
    with pytest.raises(BodyTooLargeError, match="longer than 3 bytes"):
        asyncio.run(read(SCOPE, body_of(messages)[0], 0, 3, 1000))


def test_an_endless_body_is_not_read_to_its_end() -> None:
    body, received = body_of([chunk(b"x" * MIB, more=True)] * 100)
    with pytest.raises(BodyTooLargeError):
        asyncio.run(read(SCOPE, body, 0, 1000, 1000))
    assert received[0] <= 18


def test_a_declared_length_far_beyond_the_limit_is_refused_unread() -> None:
    body, received = body_of([chunk(b"x", more=True)])
    with pytest.raises(BodyTooLargeError):
        asyncio.run(read(SCOPE, body, 100 * MIB, 1000, 1000))
    assert received == [0]


MANY_DIGITS = [pytest.param("0" * 5000 + "1", id="zeros"), pytest.param("9" * 5000, id="nines")]


@pytest.mark.parametrize("length", ["1", "-5", "abc", "²", "", "0", *MANY_DIGITS])
def test_a_length_that_is_a_lie_or_nonsense_does_not_matter(length: str) -> None:
    call = Call({"headers": [(b"content-length", length.encode("latin-1"))]}, time.monotonic)
    with pytest.raises(BodyTooLargeError):
        asyncio.run(read(SCOPE, body_of([chunk(b"x" * 2000, more=False)])[0], call.declared_bytes, 1000, 1000))


def test_a_length_is_the_same_with_zeros_before_it() -> None:
    call = Call({"headers": [(b"content-length", b"0" * 5000 + b"123456789012")]}, time.monotonic)
    assert call.declared_bytes == 123_456_789_012


def test_a_body_that_does_not_come_is_given_up() -> None:
    body, _ = body_of([chunk(b"x", more=True)])
    with pytest.raises(BodyTimeoutError, match="not complete after 5 ms"):
        asyncio.run(read(SCOPE, body, 0, 1000, 5))


def test_a_caller_who_leaves_while_sending_is_gone() -> None:
    for before in ([], [chunk(b"x", more=True)]):
        with pytest.raises(CallerGoneError):
            asyncio.run(read(SCOPE, body_of([*before, {"type": "http.disconnect"}])[0], 0, 1000, 1000))


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize(("path", "limit"), [("/search", 64 * 1024), ("/search/batch", MIB), ("/embed", MIB)])
def test_each_route_has_its_limit(client: Client, path: str, limit: int) -> None:
    response = client.post(path, content=b" " * (limit + 1))
    assert_problem(response, 413, "body_too_large")
    assert response.headers["connection"] == "close"
    assert_problem(client.post(path, content=b" " * limit), 422, "request_invalid")


def test_a_chunked_body_without_a_length_is_limited_too(client: Client) -> None:
    assert_problem(client.post("/search", content=pieces(10, 10_000)), 413, "body_too_large")


MANY = 500_000
TOO_MUCH_IS_WRONG = [
    ("/search", {"query": "a", "fields": [1] * 30_000}),
    ("/search", {"query": "a", "fields": ["x"] * 15_000}),
    ("/search", {"query": "a", "fields": ["x"] * 1000}),
    ("/search", {"query": "a", "fields": ["x" * 60_000]}),
    ("/search", {"query": "a", "x" * 60_000: 1}),
    ("/search", {"query": "a", **{str(key): 1 for key in range(6000)}}),
    ("/search/batch", [1] * MANY),
    ("/search/batch", [{"query": "a", "fields": ["x"] * 1000}] * 100),
    ("/search/batch", [{"query": "a", **{str(key): 1 for key in range(90_000)}}]),
    ("/embed", {"queries": [1] * MANY}),
    ("/embed", {"queries": [""] * 200_000}),
    ("/embed", {str(key): 1 for key in range(90_000)}),
    ("/v1/embeddings", {"model": "m", "input": [1] * MANY}),
]


@pytest.mark.parametrize(("path", "body"), TOO_MUCH_IS_WRONG)
def test_an_answer_to_a_wrong_body_does_not_grow_with_the_body(client: Client, path: str, body: Any) -> None:
    response = client.post(path, body)
    assert response.status_code in (400, 422)
    assert len(response.content) < 16_384


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/search", 5, "body"),
        ("/search", {"query": "a", "filter": 5}, "filter"),
        ("/search/batch", [5], "0"),
        ("/embed", [], "body"),
    ],
)
def test_what_has_to_be_an_object_is_called_one(client: Client, path: str, body: Any, place: str) -> None:
    problem = assert_problem(client.post(path, body), 422, "request_invalid")
    assert problem["errors"] == [{"path": place, "message": "input should be a JSON object"}]


def test_what_is_not_named_is_counted(client: Client) -> None:
    unknown_keys = {"query": "a", **{f"x{number}": 1 for number in range(15)}}
    unknown_fields = {"query": "a", "fields": [f"x{number}" for number in range(15)]}
    for path, body in (("/search", unknown_keys), ("/search", unknown_fields), ("/search/batch", [unknown_fields])):
        problem = assert_problem(client.post(path, body), 422, "request_invalid")
        assert len(problem["errors"]) == 10
        assert problem["detail"].endswith("… and 5 more")


@pytest.mark.parametrize("adapter", [TypeAdapter(BatchBody), TypeAdapter(Texts)])
def test_validating_a_list_ends_at_its_first_wrong_item(adapter: TypeAdapter[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python([1] * 1000)
    assert caught.value.error_count() == 1


LONGEST = 32 * 1024
ONE_LONG_TEXT = [
    ("/search", lambda text: {"query": text}, "query"),
    ("/search/batch", lambda text: [{"query": "a"}, {"query": text}], "1.query"),
    ("/embed", lambda text: {"query": text}, "query"),
    ("/embed", lambda text: {"queries": ["a", text]}, "queries.1"),
    ("/v1/embeddings", lambda text: {"model": "m", "input": ["a", text]}, "input.1"),
]


@pytest.mark.parametrize(("path", "body_of", "place"), ONE_LONG_TEXT)
def test_one_text_that_is_too_long_is_refused_on_every_route(
    client: Client, path: str, body_of: Callable[[str], Any], place: str
) -> None:
    for text in ("a" * (LONGEST + 1), "ä" * (LONGEST // 2 + 1)):
        response = client.post(path, body_of(text))
        assert response.status_code == 413
        assert f"{place}: a text of " in response.text
    assert client.post(path, body_of("a" * 102_400)).status_code == 413
    assert client.post(path, body_of("ä" * (LONGEST // 2))).status_code == 200


@pytest.mark.parametrize("path", ["/search", "/search/batch", "/embed", "/snapshots/rollback"])
def test_a_compressed_body_is_refused_with_what_to_do(registry: Path, tmp_path: Path, path: str) -> None:
    with client_of(registry, admin_tokens_file=tokens_file(tmp_path)) as client:
        headers = {"Content-Encoding": "gzip", "Authorization": f"Bearer {TOKEN}"}
        response = client.post(path, content=b"\x1f\x8b\x08", headers=headers)
        assert "Content-Encoding: gzip is not read" in assert_problem(response, 415, "body_coded")["detail"]
        assert response.headers["accept-encoding"] == "identity"


def test_a_body_that_is_declared_to_be_as_it_is_is_read(client: Client) -> None:
    assert client.post("/search", {"query": "a"}, headers={"Content-Encoding": "Identity"}).status_code == 200


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("least", "found"), [(1e300, 0), (3.5e38, 0), (-1e300, 3), (1.5, 0), (-1.0, 3)])
def test_a_score_beyond_all_scores_is_a_bound_like_any_other(client: Client, least: float, found: int) -> None:
    assert len(client.post("/search", {"query": "apple", "k": 3, "min_score": least}).json()["hits"]) == found


@pytest.mark.parametrize("size", [60_000, 70_000])
def test_long_bodies_are_parsed_beside_the_loop_and_short_ones_are_not(
    client: Client, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async def full(*_: object) -> None:
        raise OverloadedError("full", 100.0)

    body = {"queries": ["x" * 1000] * (size // 1000)}
    assert len(client.post("/embed", body).json()["vectors"]) == size // 1000
    monkeypatch.setattr(LongBodies, "parse", full)
    counted: list[bytes] = []
    monkeypatch.setattr("service.api.work.check_brackets", lambda raw, most: counted.append(raw))
    response = client.post("/embed", body)
    assert len(counted) == (1 if size < LONG_BYTES else 0)
    assert response.status_code == (200 if size < LONG_BYTES else 429)
    assert client.metric("scalingnote_shed_total", cause="overloaded") == (0 if size < LONG_BYTES else 1)
    assert client.parts.limiter.in_flight == 0


@pytest.mark.parametrize("path", ["/search", "/search/batch", "/embed", "/v1/embeddings"])
@pytest.mark.parametrize("item", ["[]", "{}", "[[[[[]]]]]", '{"filter":{"$or":[{}]}}'])
def test_a_body_of_objects_and_lists_alone_is_refused_before_it_is_parsed(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, item: str
) -> None:
    monkeypatch.setattr("service.api.work.parse", lambda *_: pytest.fail("it was parsed"))
    longest = 64_000 if path == "/search" else 1_000_000
    response = client.post(path, content=f"[{','.join([item] * (longest // (len(item) + 1)))}]")
    assert response.status_code == (400 if path.startswith("/v1") else 422)
    assert "objects and lists; at most" in response.text


def test_texts_may_have_as_many_brackets_as_bytes(client: Client) -> None:
    texts = ["[{" * 2000, '"[\\{' * 800] * 40
    assert len(client.post("/embed", {"queries": texts, "timeout_ms": 10_000}).json()["vectors"]) == 80


@pytest.mark.parametrize(("headers", "hangs_up"), [({"Request-Timeout-Ms": "50"}, False), ({}, False), ({}, True)])
def test_a_long_body_whose_turn_comes_too_late_is_not_parsed(
    registry: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], hangs_up: bool
) -> None:
    clock, caller, parse = ManualClock(), Caller(), LongBodies.parse

    async def later(bodies: LongBodies, *asked: Any) -> Any:
        caller.gone = hangs_up
        clock.advance_ms(0 if hangs_up else 60 if headers else 10_001)
        return await parse(bodies, *asked)

    with client_of(registry, clock) as client:
        monkeypatch.setattr(LongBodies, "parse", later)
        monkeypatch.setattr("service.api.work.parse", lambda *_: pytest.fail("it was parsed"))
        response = client.ask("/embed", {"queries": ["x" * 1000] * 70}, {"extensions": {EXTENSION: caller}}, headers=headers)
        assert response.status_code == (499 if hangs_up else 504)
        cause = "gone" if hangs_up else "late"
        assert client.metric("scalingnote_dropped_total", cause=cause, stage="tokenize") == 1
        assert client.parts.limiter.in_flight == 0


def test_a_long_body_waits_for_its_turn_no_longer_than_its_budget(registry: Path) -> None:
    body, back = {"queries": ["x" * 1000] * 70}, threading.Event()

    async def ask(client: Client) -> httpx.Response:
        first = asyncio.create_task(client.parts.long_bodies.parse(lambda: back.wait(10)))
        await asyncio.sleep(0)  # it has the turn
        async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://test") as caller:
            late = await caller.post("/embed", json=body, headers={"Request-Timeout-Ms": "500"})
            assert not first.done()
            back.set()
            assert await first
            in_time = await caller.post("/embed", json=body | {"timeout_ms": 10_000})
        assert len(in_time.json()["vectors"]) == 70
        return late

    with client_of(registry) as client:
        detail = assert_problem(asyncio.run(ask(client)), 504, "deadline_exceeded")["detail"]
        assert "does not reach tokenize" in detail
        assert client.metric("scalingnote_dropped_total", cause="late", stage="tokenize") == 1


def test_what_is_wrong_with_a_long_body_is_said(client: Client) -> None:
    response = client.post("/embed", {"queries": ["x" * LONG_BYTES, 5]})
    assert "queries.1" in assert_problem(response, 422, "request_invalid")["detail"]
