"""The access log: which requests leave a line, and what it says, against the answers themselves."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manual_clock import ManualClock
from serving import OPERATOR, TOKEN, Client, client_of, hooked, slow, tokens_file

from service.api.access import record_of
from service.api.call import Call
from service.errors import OverloadedError
from service.logs import configure
from service.sampling import Share
from service.scopes import BEGAN

pytestmark = pytest.mark.usefixtures("restored_logging")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def header(trace_id: str, sampled: bool = False) -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-{sampled:02x}"}


class Logged:
    """A service by a manual clock, and the lines of its log."""

    def __init__(self, client: Client, stream: io.StringIO, clock: ManualClock) -> None:
        self.client, self._stream, self.clock = client, stream, clock

    def lines(self, event: str = "request") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    def line(self) -> dict[str, Any]:
        [line] = self.lines()
        return line

    def costs(self, **costs_ms: float) -> None:
        """Let stages take their time from now on."""
        slot = self.client.parts.generations._slot
        assert slot is not None
        slot.generation = hooked(slot.generation, slow(self.clock, costs_ms))


Begin = Callable[..., Logged]


@pytest.fixture
def begin(registry: Path, tmp_path: Path) -> Iterator[Begin]:
    running: list[Any] = []

    def start(**settings: Any) -> Logged:
        stream, clock = io.StringIO(), ManualClock()
        configure("info", "json", stream)
        running.append(client_of(registry, clock, admin_tokens_file=tokens_file(tmp_path), **settings))
        return Logged(running[-1].__enter__(), stream, clock)

    yield start
    for each in running:
        each.__exit__(None, None, None)


def test_a_line_says_what_the_answer_said(begin: Begin) -> None:
    log = begin(access_log_sample=1.0)
    log.costs(encode=2.0, search=5.0)
    body = {"query": "apple bread", "k": 3, "timeout_ms": 500}
    answer = log.client.post("/search", body, headers={"X-Request-ID": "mine-1", **header(TRACE)}).json()
    line = log.line()
    assert (line["logged_as"], line["level"], line["logger"]) == ("sampled", "info", "service.access")
    assert (line["method"], line["route"], line["status"], line["code"]) == ("POST", "/search", 200, None)
    assert (line["request_id"], line["trace_id"]) == ("mine-1", TRACE)
    assert (line["snapshot"], line["items"], line["k"]) == (answer["snapshot"], 1, 3)
    assert (line["budget_ms"], line["exact"], line["degraded"]) == (500, False, [])
    assert line["effort"] in {row.effort for row in log.client.parts.generations.current.manifest.index.efforts}  # type: ignore[union-attr]
    answered = {stage: value for stage, value in answer["timings_ms"].items() if stage != "total"}
    assert answered.items() <= line["timings_ms"].items()
    assert (line["timings_ms"]["encode"], line["timings_ms"]["search"]) == (2.0, 5.0)
    assert sum(line["timings_ms"].values()) == pytest.approx(line["elapsed_ms"])
    assert "queries" not in line


def test_what_was_given_up_is_in_the_line(begin: Begin) -> None:
    log = begin(access_log_sample=1.0)
    log.costs(encode=9.9)
    answer = log.client.post("/search", {"query": "apple", "timeout_ms": 11}).json()
    assert answer["degraded"] is not None
    assert log.line()["degraded"] == answer["degraded"]["causes"]


def test_batches_and_vectors(begin: Begin) -> None:
    log = begin(access_log_sample=1.0)
    log.client.post("/search/batch", [{"query": "apple", "k": 2}, {"query": "drum", "k": 7, "exact": True}])
    log.client.post("/embed", {"queries": ["apple", "drum", "tree"]})
    log.client.post("/v1/embeddings", {"input": "apple", "model": "any"})
    batch, embed, openai = log.lines()
    assert (batch["items"], batch["k"], batch["exact"]) == (2, 7, False)
    assert batch["effort"] is not None
    assert [(line["items"], line["k"], line["effort"]) for line in (embed, openai)] == [(3, None, None), (1, None, None)]
    assert embed["snapshot"] == openai["snapshot"] == batch["snapshot"]


def test_none_of_the_others_unless_a_share_is_asked_for(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    log.client.post("/search", {"query": "apple"})
    log.client.post("/search", {"query": "apple", "k": 0})
    log.client.get("/livez")
    log.client.get("/nowhere")
    assert log.lines() == []


def test_the_share_is_of_traces_whatever_the_caller_records(begin: Begin) -> None:
    log = begin(access_log_sample=0.3)
    traces = [f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}" for number in range(1, 30)]
    for number, trace_id in enumerate(traces):
        log.client.get("/livez", headers=header(trace_id, sampled=bool(number % 2)))
    expected = [trace_id for trace_id in traces if Share(0.3).has_trace(trace_id)]
    assert 0 < len(expected) < len(traces)
    assert [line["trace_id"] for line in log.lines()] == expected


def test_without_a_trace_it_is_of_request_ids(begin: Begin) -> None:
    log = begin(access_log_sample=0.3)
    ids = [f"call-{number}" for number in range(30)]
    for request_id in ids:
        log.client.get("/livez", headers={"X-Request-ID": request_id})
    expected = [request_id for request_id in ids if Share(0.3).has_request(request_id)]
    assert 0 < len(expected) < len(ids)
    assert [line["request_id"] for line in log.lines()] == expected


def test_slow_ones_always_by_their_own_budget(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    log.costs(search=30.0)
    log.client.post("/search", {"query": "apple", "timeout_ms": 1000})
    assert log.lines() == []
    log.client.post("/search", {"query": "apple", "timeout_ms": 50})
    assert (log.line()["logged_as"], log.line()["status"]) == ("slow", 200)


def test_slow_ones_by_a_bound_of_the_operators(begin: Begin) -> None:
    log = begin(access_log_sample=0.0, access_log_slow_ms=20.0)
    log.costs(search=30.0)
    log.client.post("/search", {"query": "apple", "timeout_ms": 10_000})
    assert log.line()["logged_as"] == "slow"


def test_failed_ones_always_and_late_ones_say_where_all_of_the_time_went(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    log.costs(encode=30.0)
    refused = log.client.post("/search", {"query": "apple", "timeout_ms": 20})
    line = log.line()
    assert refused.status_code == line["status"] == 504
    assert (line["logged_as"], line["code"], line["snapshot"], line["effort"]) == ("failed", "deadline_exceeded", None, None)
    assert sum(line["timings_ms"].values()) == pytest.approx(line["elapsed_ms"])
    assert line["timings_ms"]["encode"] == 30.0


@pytest.mark.parametrize("headers", [{}, {"Request-Timeout-Ms": "20"}], ids=["408", "504"])
def test_slow_bodies_are_written_once_and_then_counted(begin: Begin, headers: dict[str, str]) -> None:
    log = begin(access_log_sample=0.0, default_timeout_ms=30, max_timeout_ms=30)

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    statuses = {log.client.post("/search", content=body(), headers=headers).status_code for _ in range(5)}
    assert statuses == {504 if headers else 408}
    line = log.line()
    assert (line["logged_as"], line["level"], line["elapsed_ms"]) == ("starved", "warning", 0)


def test_what_waited_for_a_thread_for_too_long_is_written_once_too(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    for _ in range(5):
        scope = {BEGAN: log.clock() - 2.0}  # such as behind other requests of its connection
        assert log.client.ask("/search", {"query": "apple"}, scope).status_code == 504
    assert log.line()["logged_as"] == "starved"


def test_how_long_a_client_took_to_send_makes_no_request_slow(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    scope = {BEGAN: log.clock() - 0.9}
    assert log.client.ask("/search", {"query": "apple", "timeout_ms": 1000}, scope).status_code == 200
    assert log.lines() == []


def test_a_fault_of_ours_leaves_both_lines_with_the_same_ids(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    log = begin(access_log_sample=0.0)
    generation = log.client.parts.generations.current
    assert generation is not None
    monkeypatch.setattr(type(generation.engine), "search", lambda *_: 1 / 0)
    log.client.post("/search", {"query": "apple"}, headers={"X-Request-ID": "mine-2", **header(TRACE)})
    [fault], line = log.lines("unhandled_error"), log.line()
    assert (line["logged_as"], line["status"], line["code"]) == ("failed", 500, "internal")
    assert (fault["request_id"], fault["trace_id"]) == (line["request_id"], line["trace_id"]) == ("mine-2", TRACE)


def test_what_is_turned_away_at_the_door_does_not_flood_the_log(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    log = begin(access_log_sample=0.0)

    def full(*_: object) -> None:
        log.clock.advance_ms(900)  # it waited for long, and is not slow for that
        raise OverloadedError("full", 100.0)

    monkeypatch.setattr(log.client.parts.limiter, "knock", full)
    assert [log.client.post("/search", {"query": "apple"}).status_code for _ in range(20)] == [429] * 20
    assert log.lines() == []
    assert log.client.metric("scalingnote_shed_total", cause="overloaded") == 20


def test_of_those_the_share_is_written(begin: Begin) -> None:
    log = begin(access_log_sample=1.0)
    log.client.parts.limiter.drain()
    log.client.post("/search", {"query": "apple"})
    assert (log.line()["logged_as"], log.line()["status"], log.line()["code"]) == ("sampled", 503, "draining")


def test_probes_that_say_no_are_no_failures(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    log.client.parts.limiter.drain()
    assert log.client.get("/readyz").status_code == 503
    assert log.lines() == []


def test_queries_only_where_asked_for_cut_and_escaped(begin: Begin) -> None:
    log = begin(access_log_sample=1.0, log_queries=True)
    hostile = 'apple\n{"event": "forged"}\x1b[31m'
    log.client.post("/search", {"query": hostile})
    log.client.post("/embed", {"queries": ["x" * 1000, *map(str, range(20))]})
    search, embed = log.lines()
    assert search["queries"] == [hostile]
    assert [len(query) for query in embed["queries"]] == [257] + [1] * 7
    assert embed["items"] == 21


def test_who_left_is_named() -> None:
    call = Call({"headers": []}, ManualClock())
    record = record_of("/search", "POST", call, 499, 0.25, None)
    assert (record.code, record.served, record.items, record.spent_ms) == ("caller_gone", None, None, {})


def test_ids_of_strangers_break_no_line(begin: Begin) -> None:
    log = begin(access_log_sample=1.0)
    for wrong in ("a\tb", 'a"b', "ä" * 3, "x" * 129):
        log.client.get("/livez", headers={"X-Request-ID": wrong.encode("latin-1"), "traceparent": wrong.encode("latin-1")})  # type: ignore[dict-item]
    lines = log.lines()
    assert len(lines) == 4
    assert all(len(line["request_id"]) == 32 and line["trace_id"] is None for line in lines)


def test_operators_lines_and_those_of_the_swap_have_the_ids_of_the_call(begin: Begin) -> None:
    log = begin(access_log_sample=0.0)
    parts = log.client.parts
    snapshot = parts.registry.current()
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "swap-1", **header(TRACE)}
    assert log.client.post(f"/snapshots/{snapshot}/activate", {"why": "a test"}, headers=headers).status_code == 202
    parts.generations._slot = None  # nothing serves: what is wanted is loaded anew
    parts.follower.converge()
    called, serving = log.lines("admin_call")[-1], log.lines("snapshot_serving")[-1]
    assert (called["who"], called["request_id"], called["trace_id"]) == (OPERATOR, "swap-1", TRACE)
    assert (serving["snapshot"], serving["request_id"], serving["trace_id"]) == (snapshot, "swap-1", TRACE)
