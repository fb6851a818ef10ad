"""Swaps as users and operators see them: under load no answer mixes two snapshots, and a service can be stopped in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from make_snapshot import make_oracle, make_snapshot
from serving import composed

from service.app import create_app
from service.attempts import Outcome
from service.parts import Parts
from snapshot.leases import is_held
from snapshot.registry import Registry

WAIT_SECONDS = 120
PATIENT_MS = 10_000
ROWS = 100
QUERY = "apple bread chair"


class Load:
    """Clients that search without a pause, and check each answer against the snapshot that it names."""

    def __init__(self, parts: Parts, seeds: dict[str, int]) -> None:
        self._app = create_app(parts)
        self._expected: dict[str, list[str]] = {}
        for snapshot, seed in seeds.items():
            oracle = make_oracle(ROWS, seed=seed)
            self._expected[snapshot] = [oracle.texts[row] for row in oracle.rows([QUERY], 5)[0]]
        self._stop = threading.Event()
        self.answered = {snapshot: threading.Event() for snapshot in seeds}
        self.failed: list[str] = []

    def run(self) -> None:
        asyncio.run(self._run())

    def until_answered_by(self, snapshot: str) -> None:
        self.answered[snapshot].clear()
        assert self.answered[snapshot].wait(WAIT_SECONDS), self.failed[:3]

    def stop(self) -> None:
        self._stop.set()

    async def _run(self) -> None:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.gather(*(self._search(client) for _ in range(4)))

    async def _search(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            response = await client.post("/search", json={"query": QUERY, "k": 5, "fields": ["text"], "timeout_ms": PATIENT_MS})
            answer = response.json()
            found = [hit["fields"]["text"] for hit in answer.get("hits", ())]
            if response.status_code != 200 or found != self._expected[answer["snapshot"]]:
                self.failed.append(response.text)
            else:
                self.answered[answer["snapshot"]].set()


@pytest.mark.slow
def test_under_load_every_answer_is_one_snapshots_and_none_fails(tmp_path: Path) -> None:
    """Three snapshots with other towers and documents take turns: some are opened, some are still open."""
    seeds = {make_snapshot(tmp_path, ROWS, kind="hnsw", seed=seed).root.name: seed for seed in (1, 2, 3)}
    names = list(seeds)
    registry = Registry(tmp_path)
    registry.activate(names[0], "a test", who="tests")
    with composed(tmp_path, gate_min_overlap=0) as parts:
        load = Load(parts, seeds)
        with ThreadPoolExecutor(1) as pool:
            clients = pool.submit(load.run)
            outcomes = []
            try:
                for turn in (1, 0, 2, 1, 0):
                    registry.activate(names[turn], "a test", who="tests")
                    outcomes.append(parts.follower.converge())
                    load.until_answered_by(names[turn])
            finally:
                load.stop()
            clients.result(WAIT_SECONDS)
        assert load.failed == []
        assert set(outcomes) == {Outcome.REPLACED, Outcome.RETURNED}
    assert not any(is_held(tmp_path / name) for name in names)


def test_what_is_open_is_held_and_what_is_closed_is_not(tmp_path: Path) -> None:
    names = [make_snapshot(tmp_path, 20, seed=seed).root.name for seed in (1, 2, 3)]
    registry = Registry(tmp_path)
    registry.activate(names[0], "a test", who="tests")
    with composed(tmp_path) as parts:
        assert [is_held(tmp_path / name) for name in names] == [True, False, False]
        registry.activate(names[1], "a test", who="tests")
        parts.follower.converge()
        assert [is_held(tmp_path / name) for name in names] == [True, True, False]
    assert not any(is_held(tmp_path / name) for name in names)


def test_queries_of_users_judge_the_next_snapshot_and_are_in_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [make_snapshot(tmp_path, ROWS, seed=seed).root.name for seed in (1, 2)]
    registry = Registry(tmp_path)
    registry.activate(names[0], "a test", who="tests")
    texts = make_oracle(ROWS, seed=1).texts[:30]
    with composed(tmp_path) as parts:

        async def ask() -> None:
            transport = httpx.ASGITransport(create_app(parts))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for text in texts:
                    assert (await client.post("/search", json={"query": text})).status_code == 200

        asyncio.run(ask())
        registry.activate(names[1], "a test", who="tests")
        assert parts.follower.converge() is Outcome.FAILED
        report = parts.follower.gate_reports[-1]
        assert report.code == "gate_overlap"
        overlap = next(check for check in report.checks if check.name == "overlap")
        assert "30 recent queries" in overlap.detail
        shown = json.dumps(report.as_dict()) + "".join(capsys.readouterr())
        assert not any(text in shown for text in texts)
        value = parts.metrics.registry.get_sample_value
        assert value("scalingnote_gate_check_passed", {"check": "overlap"}) == 0
        assert value("scalingnote_gate_check_value", {"check": "overlap"}) == overlap.value
        assert value("scalingnote_gate_reports_total", {"verdict": "refused"}) == 1
        assert value("scalingnote_recent_queries") == 30
        assert value("scalingnote_generations_open") == 1


STUCK = """
import sys, time
import service.generation as generation
from service.__main__ import main

ask, calls = generation.ask, []

def ask_slowly(*arguments):
    calls.append(1)
    if len(calls) > 1:
        print('{"event": "in_the_middle"}', file=sys.stderr, flush=True)
        time.sleep(600)
    return ask(*arguments)

generation.ask = ask_slowly
main()
"""
"""The service, whose second snapshot is inside a native call without an end while it is being proven."""


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_swap_ends_it_cleanly(tmp_path: Path) -> None:
    names = [make_snapshot(tmp_path, 20, seed=seed).root.name for seed in (1, 2)]
    registry = Registry(tmp_path)
    registry.activate(names[0], "a test", who="tests")
    options = ["--registry", str(tmp_path), "--port", "0", "--drain-min-seconds", "0", "--follow-interval-seconds", "0.05"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCALINGNOTE_")}
    command = [sys.executable, "-c", STUCK, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            events = (json.loads(line) for line in process.stderr or ())
            assert next(event for event in events if event["event"] == "snapshot_serving")["snapshot"] == names[0]
            registry.activate(names[1], "a test", who="tests")
            assert next(event for event in events if event["event"] == "in_the_middle")
            process.send_signal(signal.SIGTERM)
            left = list(events)
            assert process.wait(WAIT_SECONDS) == 0
        finally:
            process.kill()
    assert left[-1]["event"] == "stopped"
    assert not [event for event in left if event.get("level") == "error"]
    assert registry.current() == names[1]
    assert not any(is_held(tmp_path / name) for name in names)
    with composed(tmp_path) as parts:
        assert parts.generations.serving == names[1]
