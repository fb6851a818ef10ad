"""Clients that are slow, greedy, idle or broken. Each case puts the service under one of them."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from tests.load.report import Report
from tests.load.target import Target
from tests.load.wire import Wire, get, post_head, search

T = TypeVar("T")

HEADER_TIMEOUT_SECONDS = 2.0
BODY_TIMEOUT_MS = 2000
BOUNDED = ("--header-timeout-seconds", f"{HEADER_TIMEOUT_SECONDS:g}", "--max-timeout-ms", f"{BODY_TIMEOUT_MS}")
"""Settings under which slow clients are told so soon."""

_PATIENCE_SECONDS = 20.0
_CHUNKED = post_head("/search", "Transfer-Encoding: chunked") + b"\r\n"
_HUGE_BYTES = 100_000_000
_PIECE = b"x" * 262_144


async def slow_clients(target: Target, report: Report, scale: float) -> None:
    """A thousand that send headers or bodies a byte at a time, for as long as they are let."""
    count = round(1000 * scale)
    before = target.metrics()
    head = search(0)[:40]
    body = search(0)[:-5]
    began = time.monotonic()
    dribbling = [_dribble(target.port, head if number % 2 else body) for number in range(count)]
    waited = await _gather(dribbling)
    after = target.metrics()
    closed = _risen(before, after, 'connections_closed_total{cause="header_timeout"}')
    report.least("slow_headers_closed", closed, count // 2)
    report.least("slow_bodies_closed", _risen(before, after, 'requests_total{code="408",route="/search"}'), count - count // 2)
    report.most("slow_clients_not_closed", waited.count(None), 0)
    bound = max(HEADER_TIMEOUT_SECONDS, BODY_TIMEOUT_MS / 1000) + 1.0
    report.most("longest_slow_connection_s", max(each or _PATIENCE_SECONDS for each in waited), bound, timing=True)
    report.most("seconds", time.monotonic() - began, _PATIENCE_SECONDS, timing=True)


async def _dribble(port: int, data: bytes) -> float | None:
    """Send all but the last byte of ``data`` quickly, then bytes that lead nowhere; seconds until the server closed."""
    wire = await Wire.open(port)
    began = time.monotonic()
    reading = asyncio.create_task(wire.until_closed(_PATIENCE_SECONDS))
    try:
        await wire.send(data)
        while not reading.done():
            await asyncio.wait([reading], timeout=0.2)
            await wire.send(b"x" if data.endswith(b"\r\n\r\n") else b"")
    except ConnectionError:
        pass
    closed = await reading
    wire.close()
    return time.monotonic() - began if closed else None


async def byte_by_byte(target: Target, report: Report, scale: float) -> None:
    """Bodies of which each byte is a packet of its own, as fast as the network takes them."""
    count = max(3, round(50 * scale))
    body = json.dumps({"query": "apple " * 300, "k": 3, "timeout_ms": 10_000}).encode()
    head = post_head("/search", f"Content-Length: {len(body)}") + b"\r\n"
    cpu = target.process.cpu_times()
    statuses = await _gather(_send_bytes(target.port, head, body) for _ in range(count))
    spent = target.process.cpu_times()
    report.least("answered", statuses.count(200), count)
    microseconds = (spent.user + spent.system - cpu.user - cpu.system) * 1e6 / (count * len(body))
    report.most("cpu_per_byte_us", microseconds, 60, timing=True)


async def _send_bytes(port: int, head: bytes, body: bytes) -> int:
    wire = await Wire.open(port)
    await wire.send(head)
    await wire.trickle((body[i : i + 1] for i in range(len(body))), 0.0)
    status, _ = await wire.answer()
    wire.close()
    return status


async def huge_bodies(target: Target, report: Report, scale: float) -> None:
    """Bodies of 100 MB, with their length and in chunks."""
    count, size = max(2, round(20 * scale)), round(_HUGE_BYTES * max(scale, 0.3))
    before, peaks = target.metrics(), [target.state().resident_mb]
    watch = asyncio.create_task(_watch_resident(target, peaks))
    with_length = post_head("/search", f"Content-Length: {size}") + b"\r\n"
    sent = await _gather(_send_much(target.port, head, size) for head in [with_length, _CHUNKED] * (count // 2))
    watch.cancel()
    refused = _risen(before, target.metrics(), 'requests_total{code="413",route="/search"}')
    report.least("refused_413", refused, 2 * (count // 2))
    report.least("answer_or_reset", sum(status in (0, 413) for status, _ in sent), 2 * (count // 2))
    report.most("most_taken_mb", max(taken for _, taken in sent) / 1e6, 40)
    report.most("resident_peak_growth_mb", max(peaks) - peaks[0], 64)


async def _watch_resident(target: Target, peaks: list[float]) -> None:
    while True:
        peaks.append(target.process.memory_info().rss / 1e6)
        await asyncio.sleep(0.05)


async def _send_much(port: int, head: bytes, size: int) -> tuple[int, int]:
    """Status, 0 for a reset, and bytes that were taken."""
    wire = await Wire.open(port)
    chunked = head == _CHUNKED
    taken = 0
    try:
        await wire.send(head)
        while taken < size:
            await wire.send(b"%x\r\n%s\r\n" % (len(_PIECE), _PIECE) if chunked else _PIECE)
            taken += len(_PIECE)
        return (await wire.answer())[0], taken
    except ConnectionError:
        try:
            return (await wire.answer(1.0))[0], taken
        except (ConnectionError, TimeoutError):
            return 0, taken
    finally:
        wire.close()


async def keep_alive(target: Target, report: Report, scale: float) -> None:
    """Ten thousand connections that asked once and stay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = round(10_000 * scale)
    resident = target.state().resident_mb
    wires: list[Wire] = []
    for _ in range(0, count, 100):
        wires += await _gather(_open_and_ask(target.port) for _ in range(min(100, count - len(wires))))
    report.least("connections_open", target.metrics()["connections"], count)
    report.most("kb_per_connection", (target.state().resident_mb - resident) * 1e3 / count, 32 if count >= 1000 else 1e6)
    await asyncio.sleep(2.0)
    answered = await _gather(wire.ask(get("/livez")) for wire in wires[:: max(1, count // 100)])
    report.most("idle_ones_not_answered", sum(status != 200 for status in answered), 0)
    for number, wire in enumerate(wires):
        wire.close()
        if number % 100 == 0:
            await asyncio.sleep(0.01)


async def crowd(target: Target, report: Report, scale: float) -> None:
    """More idle connections than fit (a limit of 200): the newest are served, in the place of those idle for longest."""
    limit = target.metrics()["connection_limit"]
    count = round(1000 * max(scale, 0.5))
    wires = [await _open_and_ask(target.port) for _ in range(count)]
    report.most("connections_open", target.metrics()["connections"], limit + 1)
    report.most("newest_not_answered", sum([await wire.ask(get("/livez")) != 200 for wire in wires[-20:]]), 0)
    closed = target.metrics()['connections_closed_total{cause="crowded"}']
    report.least("oldest_closed", closed, count - limit)
    for wire in wires:
        wire.close()


async def _open_and_ask(port: int) -> Wire:
    wire = await Wire.open(port)
    await wire.ask(get("/livez"))
    return wire


async def garbage(target: Target, report: Report, scale: float) -> None:
    """What is not HTTP, or no longer HTTP, or too much of it."""
    times = max(1, round(50 * scale))
    for name, (pieces, expected) in _GARBAGE.items():
        got = Counter(await _gather(_throw(target.port, pieces) for _ in range(times)))
        report.most(f"{name}_not_{expected}", times - sum(got[each] for each in expected.split("_or_")), 0)


async def _throw(port: int, pieces: Sequence[bytes]) -> str:
    """What the first answer was, ``closed`` without one, ``open`` without either in time."""
    wire = await Wire.open(port)
    try:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.01)
        status, _ = await wire.answer(HEADER_TIMEOUT_SECONDS + 4)
    except ConnectionError:
        return "closed"
    except TimeoutError:
        return "open"
    finally:
        wire.close()
    return str(status)


_RANDOM = bytes(byte | 0x80 for byte in os.urandom(4096))
_SMALL = json.dumps({"query": "apple"}).encode()
_LENGTH = f"Content-Length: {len(_SMALL)}"
_GARBAGE: dict[str, tuple[Sequence[bytes], str]] = {
    "random_bytes": ([_RANDOM], "400"),
    "tls_hello": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _RANDOM[:500]], "400"),
    "half_a_header": ([b"POST /search HTTP/1.1\r\nHos"], "408"),
    "silence": ([], "closed"),
    "long_header": ([get("/livez")[:-2] + b"X: " + b"y" * 40_000, *[b"y" * 10_000] * 8], "431_or_closed"),
    "million_headers": ([get("/livez")[:-2] + b"X: y\r\n" * 1_000_000], "closed"),
    "many_headers": ([get("/livez")[:-2] + b"X: y\r\n" * 500], "431"),
    "bad_chunk": ([_CHUNKED + b"zz\r\n"], "400"),
    "two_lengths": ([post_head("/search", _LENGTH, "Content-Length: 3") + b"\r\n" + _SMALL], "400"),
    "http_1_0": ([post_head("/search", _LENGTH).replace(b"1.1", b"1.0") + b"\r\n" + _SMALL], "200"),
    "expect_continue": ([post_head("/search", _LENGTH, "Expect: 100-continue") + b"\r\n", _SMALL], "200"),
    "pipelined": ([get("/livez") * 20], "200"),
    "pipelined_thousands": ([search(1) * 2000], "closed"),
    "upgrade": ([get("/livez")[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"], "200"),
}


def _risen(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


async def _gather(work: Iterable[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*work))
