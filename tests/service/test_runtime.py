"""What a scrape reads off the running parts, against what was done to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from serving import Client, client_of, composed, make_registry

from service.admission import Lane
from service.batching import BatchPlan, BatchSize
from service.costs import Costs, Load
from service.engines.breaker import Breaker, State
from service.generation import Beside, Generation, GenerationOptions, open_generation
from snapshot.errors import EngineUnavailableError


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


@pytest.fixture
def client(registry: Path) -> Iterator[Client]:
    with client_of(registry, query_cache_bytes=1 << 20, filter_cache_bytes=1 << 20) as serving:
        yield serving


def serving(client: Client) -> Generation:
    generation = client.parts.generations.current
    assert generation is not None
    return generation


def swap_in(client: Client, generation: Generation) -> None:
    slot = client.parts.generations._slot
    assert slot is not None
    slot.generation = generation


def costs_shown(client: Client) -> dict[tuple[str, ...], float]:
    names = ("stage", "kind", "load", "quantile")
    return {
        tuple(sample.labels[name] for name in names): sample.value
        for metric in client.parts.metrics.registry.collect()
        if metric.name == "scalingnote_cost_seconds"
        for sample in metric.samples
    }


def test_costs_are_those_of_the_serving_generation_and_go_when_forgotten(client: Client) -> None:
    clock, generation = ManualClock(), serving(client)
    costs = Costs(generation.manifest.index, clock)
    swap_in(client, replace(generation, costs=costs))
    assert costs_shown(client) == {}
    for _ in range(20):
        costs.observe("search", "64", 2.0, Load.QUIET)
        costs.observe("encode", "8", 10.0, Load.BUSY)
    shown = costs_shown(client)
    assert set(shown) == {
        ("search", "64", "quiet", "0.5"),
        ("search", "64", "quiet", "0.99"),
        ("encode", "8", "busy", "0.5"),
        ("encode", "8", "busy", "0.99"),
    }
    assert shown["search", "64", "quiet", "0.5"] == pytest.approx(0.002, rel=0.15)
    assert shown["encode", "8", "busy", "0.99"] == pytest.approx(0.010, rel=0.15)
    clock.advance_ms(6_000)
    assert costs_shown(client) == {}


def test_costs_of_a_generation_go_with_it(client: Client, tmp_path: Path) -> None:
    for _ in range(20):
        serving(client).costs.observe("search", "64", 2.0, Load.QUIET)
    assert costs_shown(client)
    layout = make_snapshot(tmp_path, rows=50, seed=1)
    client.parts.generations.replace(open_generation(layout, GenerationOptions(), lambda step: None, Beside(serving(client))))
    assert costs_shown(client) == {}


def test_the_query_cache_counts_what_was_asked(client: Client) -> None:
    asked = ["apple", "bread", "apple", "chair", "apple", "bread", "apple"]
    for query in asked:
        assert client.post("/search", {"query": query}).status_code == 200
    distinct = len(set(asked))
    assert client.metric("scalingnote_query_cache_requests_total", outcome="miss") == distinct
    assert client.metric("scalingnote_query_cache_requests_total", outcome="hit") == len(asked) - distinct
    assert client.metric("scalingnote_query_cache_requests_total", outcome="shared") == 0
    assert client.metric("scalingnote_query_cache_entries") == distinct
    assert client.metric("scalingnote_query_cache_evictions_total") == 0
    dim = serving(client).manifest.space.dim
    assert distinct * 4 * dim < client.metric("scalingnote_query_cache_bytes") <= 1 << 20


def test_a_small_query_cache_says_what_it_threw_out(registry: Path) -> None:
    with client_of(registry, query_cache_bytes=2_000) as small:
        for query in ("apple", "bread", "chair", "drum", "eagle"):
            small.post("/search", {"query": query})
        kept = small.metric("scalingnote_query_cache_entries")
        assert 0 < kept < 5
        assert small.metric("scalingnote_query_cache_evictions_total") == 5 - kept
        assert small.metric("scalingnote_query_cache_bytes") <= 2_000


def test_a_cache_that_is_off_shows_zeros(registry: Path) -> None:
    with client_of(registry, query_cache_bytes=0) as off:
        off.post("/search", {"query": "apple"})
        off.post("/search", {"query": "apple"})
        counts = [off.metric("scalingnote_query_cache_requests_total", outcome=outcome) for outcome in ("hit", "miss", "shared")]
        assert counts == [0, 0, 0]


def test_the_filter_cache_is_that_of_the_serving_generation(client: Client) -> None:
    for _ in range(3):
        assert client.post("/search", {"query": "apple", "filter": {"kind": "tool"}}).status_code == 200
    stats = serving(client).documents.filter_stats()
    assert stats.hits >= 2
    assert client.metric("scalingnote_filter_cache_lookups", outcome="hit") == stats.hits
    assert client.metric("scalingnote_filter_cache_lookups", outcome="miss") == stats.misses > 0
    assert client.metric("scalingnote_filter_cache_bytes") == stats.bytes > 0


def test_what_was_measured_about_batches_is_shown_by_length(client: Client) -> None:
    serving(client).encoder.batching = BatchPlan((BatchSize(8, 4, 1.5), BatchSize(64, 1, 1.0)))
    assert client.metric("scalingnote_batch_rows_worth", tokens="8") == 4
    assert client.metric("scalingnote_batch_rows_worth", tokens="64") == 1


def test_each_call_of_the_graph_is_counted(client: Client) -> None:
    for query in ("apple", "bread", "apple"):
        client.post("/search", {"query": query})
    assert client.metric("scalingnote_batch_rows_count", graph="query_tower") == 2
    assert client.metric("scalingnote_batch_rows_sum", graph="query_tower") == 2


def test_requests_in_flight_are_shown_by_lane(client: Client) -> None:
    limiter = client.parts.limiter
    tokens = [limiter.acquire(lane) for lane in (Lane.SEARCH, Lane.SEARCH, Lane.EMBED)]
    shown = {lane: client.metric("scalingnote_lane_in_flight", lane=lane.value) for lane in Lane}
    assert shown == {Lane.SEARCH: 2, Lane.EMBED: 1, Lane.BATCH: 0}
    shares = {lane: client.metric("scalingnote_lane_share", lane=lane.value) for lane in Lane}
    assert shares == {lane: limiter.share(lane) for lane in Lane}
    assert client.metric("scalingnote_waiting") == 0
    assert len(tokens) == sum(shown.values())


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("text/plain", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)],
)
def test_both_formats_are_read_by_the_clients_own_parsers(client: Client, accept: str, parse: object) -> None:
    client.post("/search", {"query": "apple"})
    assert callable(parse)
    text = client.get("/metrics", headers={"Accept": accept}).text
    families = {family.name: family for family in parse(text)}
    [count] = [
        s.value
        for s in families["scalingnote_stage_seconds"].samples
        if s.name.endswith("_count") and s.labels["stage"] == "search"
    ]
    assert count == 1
    assert families["scalingnote_cost_seconds"].type == "gauge"
    assert {name for name in families if name.startswith("scalingnote_") and not name.endswith("_created")} == {
        metric.name for metric in client.parts.metrics.registry.collect() if metric.name.startswith("scalingnote_")
    }


def test_the_state_of_an_engine_elsewhere_is_shown(client: Client) -> None:
    def shown() -> set[str]:
        return {state.value for state in State if client.metric("scalingnote_engine_state", state=state.value)}

    assert shown() == {"closed"}  # FAISS in this process has no breaker
    slot, elsewhere = client.parts.generations._slot, Mock()
    elsewhere.breaker = Breaker("milvus", probe=lambda: None, most_failures=1, wait=lambda _: True)
    assert slot.generation is not None
    generation, slot.generation = slot.generation, replace(slot.generation, engine=elsewhere)
    try:
        assert shown() == {"closed"}
        elsewhere.breaker.failed(EngineUnavailableError("gone"))
        assert shown() == {"open"}
    finally:
        slot.generation = generation


def test_every_family_is_there_before_anything_serves(tmp_path: Path) -> None:
    with composed(tmp_path / "empty", ManualClock()) as empty:
        families = {metric.name: metric for metric in empty.metrics.registry.collect()}
    assert [sample.value for sample in families["scalingnote_filter_cache_lookups"].samples] == [0, 0]
    assert families["scalingnote_cost_seconds"].samples == families["scalingnote_batch_rows_worth"].samples == []
