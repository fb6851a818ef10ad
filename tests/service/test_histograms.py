"""Like the Prometheus client's own, but for what they cost."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.histograms import Histograms, Series

EDGES = (0.001, 0.005, 0.05, 1.0)


@given(st.lists(st.floats(0, 10) | st.sampled_from(EDGES), max_size=30))
def test_what_is_exported_equals_the_clients_own(values: list[float]) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    ours = Histograms("a_seconds", "What", "stage", EDGES)
    mine.register(ours)
    other = Histogram("a_seconds", "What", ["stage"], buckets=EDGES, registry=theirs)
    for label in ("encode", "search"):
        ours.of(label)
        other.labels(label)
    for value in values:
        ours.of("encode").observe(value)
        other.labels("encode").observe(value)
    assert generate_latest(mine) == generate_latest(theirs)
    assert generate_openmetrics(mine) == generate_openmetrics(theirs)
    assert ours.text().encode() == generate_latest(theirs)
    assert ours.text().encode() + b"# EOF\n" == generate_openmetrics(theirs)


def test_no_observation_is_lost_between_threads() -> None:
    series = Series(EDGES)
    threads = [threading.Thread(target=lambda: [series.observe(0.5) for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts, total = series.read()
    assert counts == [0, 0, 0, 20_000, 20_000]
    assert total == pytest.approx(10_000)


def test_the_latest_trace_of_a_bucket_is_its_exemplar_and_only_where_it_is_asked_for() -> None:
    ours = Histograms("a_seconds", "What", "stage", EDGES)
    for value, trace in ((0.002, "1" * 32), (0.003, "2" * 32), (0.02, None), (7.0, "3" * 32)):
        ours.of("encode").observe(value, trace)
    assert "trace_id" not in ours.text()
    [family] = text_string_to_metric_families(f"{ours.text(exemplars=True)}# EOF\n")
    found = {s.labels["le"]: (s.exemplar.labels["trace_id"], s.exemplar.value) for s in family.samples if s.exemplar}
    assert found == {"0.005": ("2" * 32, 0.003), "+Inf": ("3" * 32, 7.0)}
    stamped = [s.exemplar.timestamp for s in family.samples if s.exemplar]
    assert all(abs(float(stamp) - time.time()) < 60 for stamp in stamped)
