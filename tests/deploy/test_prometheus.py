"""A real Prometheus scrapes a real service: rules and dashboards find their series, and a fault fires its alert and no other."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import promql_parser as promql
import pytest
import yaml
from make_snapshot import make_snapshot
from real_prometheus import ROOT, RULES, Prometheus, executable, prometheus

from snapshot.registry import Registry
from tests.live import Live, start, until

pytestmark = pytest.mark.slow
BOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
FLAGS = (
    *("--slow-ms", "5", "--threads", "1", "--concurrency-limit", "fixed", "--max-concurrency", "4"),
    *("--default-timeout-ms", "10000", "--follow-interval-seconds", "0.1", "--proof-interval-seconds", "1"),
    *("--swap-cpu-share", "1"),
    *("--live-recall-share", "1", "--live-teacher-share", "1", "--live-cpu-share", "1", "--live-window", "30"),
)
CROWD = 24
_ALERTS = "ALERTS{"
"""Of an alert that has not fired there is no series."""
_CGROUP = "scalingnote_cgroup_"
_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Load:
    """Callers that wait for their answer before they ask again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._number = 0

    def ask(self) -> None:
        """One request of each kind, never the same text twice."""
        self._number += 1
        text = f"apple lamp {self._number}"
        self._answered("/search", {"query": text, "filter": {"kind": "tool"}})
        self._answered("/search", {"query": f"{text} drum", "exact": True})
        self._answered("/search/batch", [{"query": f"{text} eagle"}])
        self._answered("/embed", {"queries": [f"{text} glass"]})
        self._answered("/v1/embeddings", {"input": f"{text} horse", "model": "any"})

    def _answered(self, path: str, body: Any) -> None:
        status, answer = self._live.get(path, body)
        assert status not in (400, 404, 422), f"{path} puts no load on anything: {answer!r}"

    @contextmanager
    def running(self, callers: int, pause_seconds: float = 0.0) -> Iterator[None]:
        stop = threading.Event()

        def call() -> None:
            while not stop.wait(pause_seconds):
                self.ask()

        with ThreadPoolExecutor(callers) as pool:
            called = [pool.submit(call) for _ in range(callers)]
            try:
                yield
            finally:
                stop.set()
        for each in called:
            each.result()


class World:
    """A service with something to do, and the Prometheus that watches it."""

    def __init__(self, live: Live, watching: Prometheus, registry: Registry, ids: dict[str, str]) -> None:
        self.live, self.watching, self.registry, self.ids = live, watching, registry, ids
        self.load = Load(live)

    def activate(self, name: str) -> None:
        self.registry.activate(self.ids[name], "of the test", who="tests")

    def until_serving(self, name: str) -> None:
        until(self.live, lambda: self.live.get("/info")[1]["serving"] == self.ids[name], f"serving {name}", 150.0)

    def until_calm(self) -> None:
        self.watching.until(lambda: not self.watching.firing(), "calm")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    executable("prometheus")
    folder = tmp_path_factory.mktemp("world")
    root = folder / "registry"
    layouts = {
        "taught": make_snapshot(root, rows=200, kind="hnsw", teacher=0.0),
        "estranged": make_snapshot(root, rows=201, kind="hnsw", teacher=9.0),
        "damaged": make_snapshot(root, rows=202, kind="hnsw"),
    }
    model = layouts["damaged"].model
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    registry = Registry(root)
    live = start(folder, root, *FLAGS, program=("-m", "tests.load.slow_service"))
    try:
        made = {name: layout.root.name for name, layout in layouts.items()}
        registry.activate(made["taught"], "the first one", who="tests")
        until(live, live.ready, "ready")
        with prometheus(folder, live.port) as watching:
            here = World(live, watching, registry, made)
            with here.load.running(1, pause_seconds=0.05):
                yield here
    finally:
        live.stop()


def selectors(expr: str) -> set[str]:
    """Every series that an expression asks for, without what is done with it."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            found.add(str(node).split(" offset ")[0])
        for name in ("expr", "lhs", "rhs", "vs", "vector_selector"):
            child = getattr(node, name, None)
            if child is not None and not isinstance(child, str):
                visit(child)
        for child in getattr(node, "args", None) or ():
            visit(child)

    visit(promql.parse(expr))
    assert found, expr
    return found


def panels() -> list[Any]:
    """Title and query of every panel, as Grafana would send it."""
    asked = []
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "5s").replace("$instance", ".*")
                asked.append(pytest.param(query, id=f"{path.stem}-{panel['title']}-{target['refId']}"))
    return asked


def marks() -> set[str]:
    listed = [mark for path in BOARDS for mark in json.loads(path.read_text())["annotations"]["list"]]
    return {mark["expr"].replace("$instance", ".*") for mark in listed}


@pytest.mark.parametrize("query", panels())
def test_a_panel_has_data_of_a_busy_service(world: World, query: str) -> None:
    world.watching.until(lambda: world.watching.values("scalingnote_ready"), "scraped")
    if _CGROUP in query and not all(world.watching.values(f"{one} > 0") for one in selectors(query)):
        pytest.skip("the control group here has no such limit, or there is none")
    world.watching.until(lambda: world.watching.values(query), f"data of {query}", 30.0)


def test_a_traced_request_is_an_exemplar_of_the_latency(world: World) -> None:
    url, traced = f"http://127.0.0.1:{world.live.port}/search", {"traceparent": f"00-{_TRACE_ID}-00f067aa0ba902b7-01"}
    with urllib.request.urlopen(urllib.request.Request(url, b'{"query": "apple"}', traced), timeout=30) as response:
        assert response.status == 200
    asked = {"query": "scalingnote_request_seconds_bucket", "start": "0", "end": "9999999999"}

    def traces() -> bool:
        kept = world.watching.get("query_exemplars", **asked)
        return _TRACE_ID in {one["labels"]["trace_id"] for series in kept for one in series["exemplars"]}

    world.watching.until(traces, "kept with its trace")


def test_every_series_that_rules_and_marks_ask_for_is_there_and_no_alert_fires(world: World) -> None:
    rules = world.watching.until(lambda: _evaluated(world.watching), "every rule evaluated")
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    wanted = set().union(*(selectors(expr) for expr in {*(rule["query"] for rule in rules), *marks()}))
    for selector in recorded | {one for one in wanted if not one.startswith(_ALERTS)}:
        world.watching.until(lambda asked=selector: world.watching.values(asked), f"a series of {selector}", 30.0)
    world.until_calm()


def _evaluated(watching: Prometheus) -> list[dict[str, Any]]:
    rules = watching.rules()
    return rules if all(rule["health"] != "unknown" for rule in rules) else []


def test_the_rules_that_prometheus_has_are_all_of_the_repository(world: World) -> None:
    ours = [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    assert sorted(rule["name"] for rule in world.watching.rules()) == sorted(rule.get("alert") or rule["record"] for rule in ours)


def test_more_load_than_it_can_do_fires_the_alert_on_shedding_and_no_other(world: World) -> None:
    world.until_calm()
    with world.load.running(CROWD):
        world.watching.until(lambda: "ScalingNoteShedding" in world.watching.firing(), "shedding")
        assert world.watching.firing() == {"ScalingNoteShedding"}
        [alert] = [found for found in world.watching.get("alerts")["alerts"] if found["state"] == "firing"]
        assert alert["annotations"]["summary"].endswith("% of requests are refused with 429")
        assert world.watching.values('sum(rate(scalingnote_shed_total{cause="overloaded"}[5s]))')[0] > 0
    world.until_calm()


def test_queries_that_the_student_was_not_distilled_on_fire_the_alert_on_drift_and_no_other(world: World) -> None:
    world.until_calm()
    world.activate("estranged")
    world.until_serving("estranged")
    world.watching.until(lambda: "ScalingNoteDrift" in world.watching.firing(), "drift")
    assert world.watching.firing() == {"ScalingNoteDrift"}
    world.activate("taught")
    world.until_serving("taught")
    world.until_calm()


def test_a_damaged_snapshot_fires_the_alert_on_refusals_and_no_other(world: World) -> None:
    world.until_calm()
    world.activate("damaged")
    world.watching.until(lambda: "ScalingNoteSwapFailed" in world.watching.firing(), "a refusal")
    assert world.watching.firing() == {"ScalingNoteSwapFailed"}
    world.watching.until(lambda: world.watching.values("scalingnote_snapshot_converged == 0"), "not converged")
    assert world.watching.firing() == {"ScalingNoteSwapFailed"}
    world.registry.rollback("of the test", who="tests")
    world.until_serving("taught")
