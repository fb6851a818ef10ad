"""More than the service can do, clients that leave, stages that block, and a process that stands still."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.load.probe import LOST
from tests.load.report import Report
from tests.load.slow_service import BLOCKED
from tests.load.target import Target, stop_and_go
from tests.load.wire import Wire, post, search

SLOW_MS = 20.0
THREADS = 2
CAPACITY = THREADS * 1000 / SLOW_MS
"""Searches a second, where the sleep is all that a search costs."""
BLOCK_MS = 3000.0
_BUDGET_MS = 500.0
_LATE_MS = 25.0
"""A client that shares two cores with the service sees answers that much later than they were sent."""
STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Sent:
    """One request: when it was due, in seconds since the first, its status, and how long it took."""

    at: float
    status: int
    took_ms: float


class Open:
    """An open loop: requests are sent when they are due, whatever became of those before. Clients give up after a time."""

    def __init__(self, port: int, request: Callable[[int], bytes], patience_seconds: float) -> None:
        self._port = port
        self._request = request
        self._patience_seconds = patience_seconds
        self._free: list[Wire] = []
        self._began = time.monotonic()
        self.sent: list[Sent] = []

    async def run(self, per_second: float, seconds: float) -> None:
        """Send at random times, ``per_second`` on average."""
        chance = random.Random(1)
        due, tasks = self._began, []
        while due < self._began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self._ask(len(tasks), due)))
            due += chance.expovariate(per_second)
        await asyncio.gather(*tasks)
        for wire in self._free:
            wire.close()

    async def _ask(self, number: int, due: float) -> None:
        wire, status = None, LOST
        try:
            async with asyncio.timeout(self._patience_seconds):
                wire = self._free.pop() if self._free else await Wire.open(self._port)
                status = await wire.ask(self._request(number))
            self._free.append(wire)
        except (ConnectionError, TimeoutError):
            if wire is not None:
                wire.close()
        self.sent.append(Sent(due - self._began, status, (time.monotonic() - due) * 1000))


async def overload(target: Target, report: Report, scale: float) -> None:
    """Four times what two threads can do."""
    seconds = max(2.0, 10 * scale)
    load = Open(target.port, lambda number: search(number, _BUDGET_MS), 5.0)
    await load.run(4 * CAPACITY, seconds)
    done = [each.took_ms for each in load.sent if each.status == 200]
    refused = [each.took_ms for each in load.sent if each.status == 429]
    report.least("goodput_of_capacity", len(done) / seconds / CAPACITY, 0.7, timing=True)
    report.most("accepted_worst_ms", max(done), _BUDGET_MS + _LATE_MS, timing=True)
    report.least("refused", len(refused), len(load.sent) / 3)
    report.most("refused_p50_ms", sorted(refused)[len(refused) // 2], 10, timing=True)
    report.most("other_than_200_429_504", sum(each.status not in (200, 429, 504) for each in load.sent), 0)
    await asyncio.sleep(6.0)
    events = [line["event"] for line in target.log_lines()]
    report.least("log_shedding", events.count("shedding"), 1)
    report.most("log_shedding_ended_missing", events.count("shedding") - events.count("shedding_ended"), 0)


async def disconnect(target: Target, report: Report, scale: float) -> None:
    """Clients that close in the middle of their request: at once, by half, with a reset, while they still send."""
    rounds, crowd = max(2, round(20 * scale)), 40
    before = target.metrics()
    for number in range(rounds):
        await asyncio.gather(*(_leave(target.port, number * crowd + i) for i in range(crowd)))
    await asyncio.sleep(0.5)
    after = target.metrics()
    gone = after['requests_total{code="499",route="/search"}'] - before.get('requests_total{code="499",route="/search"}', 0)
    dropped = sum(after[name] - before[name] for name in after if name.startswith('dropped_total{cause="gone"'))
    report.least("counted_as_gone", gone, rounds * crowd * 0.75)
    report.least("dropped_before_a_stage", dropped, 1)
    report.most("unhandled_errors", after["unhandled_errors_total"] - before["unhandled_errors_total"], 0)


async def _leave(port: int, number: int) -> None:
    wire = await Wire.open(port)
    request = search(number)
    try:
        await wire.send(request[:-10] if number % 4 == 3 else request)
        await asyncio.sleep(0.005)
        if number % 4 == 1:
            wire.half_close()
            await wire.until_closed(5.0)
        elif number % 4 == 2:
            wire.abort()
    except ConnectionError:
        pass
    wire.close()


async def blocked_stage(target: Target, report: Report, scale: float) -> None:
    """One stage of some requests blocks: first one thread is lost to it, then all of them."""
    others = Open(target.port, lambda number: search(number, _BUDGET_MS), 10.0)
    others_done = asyncio.create_task(others.run(CAPACITY / 5, BLOCK_MS / 1000))
    one = asyncio.create_task(_blocked(target.port, -1))
    await others_done
    report.most("beside_one_blocked_thread_not_200", sum(each.status != 200 for each in others.sent), 0)
    status, took_ms = await one
    report.most("blocked_request_not_504", status != 504, 0)
    report.most("blocked_request_told_after_ms", took_ms, _BUDGET_MS + 100, timing=True)
    await asyncio.sleep(BLOCK_MS / 1000)
    blocked = [asyncio.create_task(_blocked(target.port, number)) for number in range(2 * THREADS)]
    await asyncio.sleep(0.2)
    others = Open(target.port, lambda number: search(number, _BUDGET_MS), 10.0)
    await others.run(CAPACITY / 5, max(0.5, scale))
    told = [each.took_ms for each in others.sent] + [took for _, took in await asyncio.gather(*blocked)]
    report.most("with_all_threads_blocked_told_after_ms", max(told), _BUDGET_MS + 100, timing=True)
    report.most("with_all_threads_blocked_not_429_504", sum(each.status not in (429, 504) for each in others.sent), 0)
    await asyncio.sleep(2 * BLOCK_MS / 1000)
    wire = await Wire.open(target.port)
    report.most("afterwards_not_200", await wire.ask(search(0)) != 200, 0)
    wire.close()


async def _blocked(port: int, number: int) -> tuple[int, float]:
    wire = await Wire.open(port)
    began = time.monotonic()
    status = await wire.ask(post("/search", {"query": f"{BLOCKED} {number}", "timeout_ms": _BUDGET_MS}))
    wire.close()
    return status, (time.monotonic() - began) * 1000


async def stop_cont(target: Target, report: Report, scale: float) -> None:
    """The process stands still for two seconds under load, as in a frozen container or a suspended machine."""
    before = target.metrics()
    load = Open(target.port, lambda number: search(number, _BUDGET_MS), _BUDGET_MS / 1000 + 0.1)
    running = asyncio.create_task(load.run(CAPACITY * 0.4, 2 + STOP_SECONDS + 4))
    await asyncio.sleep(2.0)
    await asyncio.to_thread(stop_and_go, target, STOP_SECONDS)
    again = 2.0 + STOP_SECONDS
    await running
    after = target.metrics()
    answered = sum(each.status == 200 for each in load.sent)
    steady = [each for each in load.sent if each.at > again + 1.0]
    late = sum(after[name] - before[name] for name in after if name.startswith("dropped_total{"))
    report.least("late_or_gone_counted", late + _risen(before, after, 'requests_total{code="499",route="/search"}'), 1)
    report.most("not_200_a_second_later", sum(each.status != 200 for each in steady), 0)
    report.most("worst_ms_a_second_later", max(each.took_ms for each in steady), _BUDGET_MS, timing=True)
    searched = _risen(before, after, 'stage_seconds_count{stage="search"}')
    probed = _risen(before, after, 'requests_total{code="200",route="/search"}') - answered
    report.most("searches_for_nobody", searched - answered - probed, 40)


def _risen(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)
