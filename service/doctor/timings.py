"""What each stage takes on this machine, beside what the snapshot says it took on the machine that made it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import BaseModel, ValidationError

from service.doctor.findings import Finding, Verdict
from service.engines.base import NO_ROW, Rows
from service.generation import Generation
from service.plan import FETCH_MS, FETCH_MS_PER_HIT
from snapshot.files import read_small
from snapshot.layout import Layout

Pace = Callable[[], None]
K = 10
_QUERIES = 32
_REPEATS = 3
"""The fastest counts: a busy neighbour makes the others slower, never faster."""
_WARN_TIMES, _WRONG_TIMES = 2.0, 5.0
_WARN_MS, _WRONG_MS = 0.1, 0.5
"""Beyond the times: what a clock and a cache miss may add to a stage of microseconds."""
_MAX_REPORT_BYTES = 16 << 20
SERVED_TOWER = "student, as served"
"""How the evaluation's report names the query tower that is served."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One stage.

    Attributes:
        stage: its name, with the effort of a search.
        p50_ms: median over the queries, of one thread.
        p99_ms: 99th percentile of the same.
        recorded_p50_ms: of the machine that made the snapshot; None where it is not recorded.
        recorded_p99_ms: as above.
        by: what recorded it.
    """

    stage: str
    p50_ms: float
    p99_ms: float
    recorded_p50_ms: float | None = None
    recorded_p99_ms: float | None = None
    by: str = ""


class _Latency(BaseModel):
    tower: str
    p50_ms: float
    p99_ms: float


class _Findings(BaseModel):
    """Of ``report/report.json``, what is needed here."""

    latencies: tuple[_Latency, ...] = ()


def time_stages(
    generation: Generation, layout: Layout, pace: Pace = lambda: None, clock: Callable[[], float] = time.thread_time
) -> list[Timing]:
    """Time encoding, searching at each effort and fetching, one golden query at a time.

    Args:
        generation: open, and warm.
        layout: of its snapshot, whose report has the query tower's latency.
        pace: called between two queries.
        clock: seconds; the thread's own time leaves out what other processes took.
    """
    queries, vectors = generation.golden.queries[:_QUERIES], generation.golden.vectors[:_QUERIES]
    engine, documents, k = generation.engine, generation.documents, min(K, generation.engine.count)
    each = [vectors[number : number + 1] for number in range(len(vectors))]

    def fetch(rows: Rows) -> None:
        documents.ids(rows)
        documents.fields(rows)

    encode = _timed([partial(generation.encoder.encode, [query]) for query in queries], clock, pace)
    recorded = recorded_encoding(layout)
    by = "report.json of the evaluation"
    timings = [Timing("encode", *encode, *((recorded.p50_ms, recorded.p99_ms, by) if recorded else ()))]
    for row in generation.manifest.index.efforts:
        search = _timed([partial(engine.search, vector, k, row.effort) for vector in each], clock, pace)
        timings.append(Timing(f"search at {row.effort}", *search, row.p50_ms, row.p99_ms, "the manifest's effort table"))
    found = engine.search(vectors, k, generation.manifest.index.default_effort).rows
    fetching = _timed([partial(fetch, rows[rows != NO_ROW]) for rows in found], clock, pace)
    planned = FETCH_MS + k * FETCH_MS_PER_HIT
    return [*timings, Timing("fetch", *fetching, planned, planned, "what plans set aside")]


def check_timing(timing: Timing) -> Finding:
    """Whether a stage takes about as long as it took where the snapshot was made."""
    seen = f"p50 {timing.p50_ms:.3g} ms, p99 {timing.p99_ms:.3g} ms"
    name = f"latency: {timing.stage}"
    if timing.recorded_p50_ms is None or timing.recorded_p99_ms is None:
        advice = "the snapshot has no report of an evaluation with latencies: compare with another machine that serves it"
        return Finding(name, "unknown", seen, "not recorded", advice)
    recorded = timing.recorded_p50_ms
    warn, wrong = _WARN_TIMES * recorded + _WARN_MS, _WRONG_TIMES * recorded + _WRONG_MS
    expected = f"p50 {recorded:.3g} ms, p99 {timing.recorded_p99_ms:.3g} ms ({timing.by}); at most {warn:.3g} ms"
    verdict: Verdict = "wrong" if timing.p50_ms > wrong else "warn" if timing.p50_ms > warn else "ok"
    return Finding.of(name, verdict, seen, expected, _advice(timing.stage))


def recorded_encoding(layout: Layout) -> _Latency | None:
    """What the evaluation measured of the query tower that is served, tokenizing included; None where it did not."""
    try:
        report = _Findings.model_validate_json(read_small(layout.report / "report.json", _MAX_REPORT_BYTES))
    except (OSError, ValidationError):
        return None
    return next((found for found in report.latencies if found.tower == SERVED_TOWER), None)


def _timed(works: Sequence[Callable[[], object]], clock: Callable[[], float], pace: Pace) -> tuple[float, float]:
    """Median and 99th percentile of milliseconds, of the fastest run of each."""
    milliseconds = []
    for work in works:
        pace()
        milliseconds.append(min(_time_ms(work, clock) for _ in range(_REPEATS)))
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return float(p50), float(p99)


def _time_ms(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return (clock() - began) * 1000.0


def _advice(stage: str) -> str:
    common = "a slower or throttled processor (checks cores, throttling)"
    if stage == "encode":
        return f"{common}, or a build of ONNX Runtime without its instructions (check onnxruntime)"
    if stage == "fetch":
        return f"{common}, or documents on a slow disk that do not fit into the memory (check swap_memory)"
    return f"{common}, a generic build of FAISS (check faiss), or an index that does not fit into the memory (check swap_memory)"
