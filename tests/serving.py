"""A service over a toy snapshot without a socket: its parts, and a client that speaks ASGI to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from make_snapshot import make_snapshot
from manual_clock import ManualClock

from service.app import create_app
from service.engines.base import Hits, Vectors
from service.generation import Generation
from service.main import compose
from service.parts import Parts
from service.settings import Settings
from snapshot.registry import Registry
from snapshot.selection import Selection

TOKEN = "a-token-of-the-tests"
OPERATOR = "operator-of-the-tests"


def make_registry(folder: Path, *, rows: int = 200, kind: str = "hnsw") -> Registry:
    """A registry with one toy snapshot, which is active."""
    layout = make_snapshot(folder, rows=rows, kind=kind)
    registry = Registry(folder)
    registry.activate(layout.root.name, "for a test", who="tests")
    return registry


def tokens_file(folder: Path, **secrets: str) -> Path:
    """A file of operators' tokens by name; TOKEN of OPERATOR without any."""
    path = folder / "admin-tokens"
    given = secrets or {OPERATOR: TOKEN}
    path.write_text("".join(f"{name}:sha256:{sha256(secret.encode()).hexdigest()}\n" for name, secret in given.items()))
    return path


@contextmanager
def composed(registry: Path, clock: Callable[[], float] | None = None, **settings: Any) -> Iterator[Parts]:
    """Parts that serve what the registry wants; the follower is stepped once and has no thread."""
    settings.setdefault("query_cache_bytes", 0)  # so that every request goes through every stage
    with ExitStack() as undo:
        parts = compose(Settings(registry=registry, threads=settings.pop("threads", 2), **settings), undo)
        if clock is not None:
            parts = replace(parts, clock=clock)
        parts.follower.converge()
        yield parts


@dataclass
class Client:
    """Sends one request at a time and waits for its answer."""

    app: FastAPI
    parts: Parts

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, **({"json": json} if json is not None else {}), **options)

    def ask(self, path: str, json: Any, scope: dict[str, Any], **options: Any) -> httpx.Response:
        """POST, with this too in the ASGI scope, as from our own server."""

        async def app(given: Any, receive: Any, send: Any) -> None:
            await self.app({**given, **scope}, receive, send)

        return Client(app, self.parts).post(path, json, **options)  # type: ignore[arg-type]  # an application is what it takes

    def metric(self, name: str, **labels: str) -> float:
        """The present value of a series."""
        value = self.parts.metrics.registry.get_sample_value(name, labels)
        assert value is not None, f"no series {name}{labels}"
        return value


@contextmanager
def client_of(registry: Path, clock: Callable[[], float] | None = None, **settings: Any) -> Iterator[Client]:
    """A client of a service over ``registry``."""
    with composed(registry, clock, **settings) as parts:
        yield Client(create_app(parts), parts)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of every error; its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:scalingnote:problem:{code}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert set(body) <= {"type", "title", "status", "detail", "code", "request_id", "errors", "retry_after_ms", "spent_ms"}
    assert ("retry-after" in response.headers) == (status in (429, 503))
    return body


class Hooked:
    """Passes calls on to an encoder or engine, after a hook has heard the name of the method."""

    def __init__(self, inner: Any, hook: Callable[[str], None]) -> None:
        self._inner = inner
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tokenize(self, rendered: list[str]) -> Any:
        self._hook("tokenize")
        return self._inner.tokenize(rendered)

    def embed(self, ids: Any) -> Vectors:
        self._hook("encode")
        return self._inner.embed(ids)

    def select(self, parsed: Any, pace: Callable[[], object] | None = None) -> Selection:
        self._hook("filter")
        return self._inner.select(parsed, pace)

    def search(self, *arguments: Any) -> Hits:
        self._hook("search")
        hits: Hits = self._inner.search(*arguments)
        return hits

    def ids(self, rows: Any) -> list[str]:
        self._hook("fetch")
        return self._inner.ids(rows)


def hooked(generation: Generation, hook: Callable[[str], None]) -> Generation:
    """The same generation, whose stages tell ``hook`` their name as they begin."""
    parts = {name: Hooked(getattr(generation, name), hook) for name in ("encoder", "engine", "documents")}
    return replace(generation, **parts)


def slow(clock: ManualClock, costs_ms: dict[str, float]) -> Callable[[str], None]:
    """A hook that lets time pass in some stages."""
    return lambda stage: clock.advance_ms(costs_ms.get(stage, 0.0))
