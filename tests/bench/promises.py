"""The goals of the service, with the rows they are read from."""

from __future__ import annotations

from tests.bench.goals import Goal, best, ratio, value
from tests.bench.session import SATURATED

_OURS, _SIX, _NAIVE = (("closed", subject) for subject in ("ours", "ours_six_layers", "naive_six_layers"))
_USUAL = ("closed", "sentence_transformers")
_PER_SECOND, _CPU = "accepted_per_second", "cpu_ms"

CLOSED = (
    Goal(
        "search_p50_over_floor",
        "`/search` p50 at concurrency 1 over the in-process floor",
        "<=",
        1.35,
        ratio(value("floor", "ours", "c=1", "p50_ms"), value("floor", "floor", "c=1", "p50_ms")),
    ),
    Goal(
        "search_cpu_over_floor",
        "CPU per request over the floor's, at saturation",
        "<=",
        1.3,
        ratio(value("floor", "ours", f"c={SATURATED}", _CPU), value("floor", "floor", "c=1", _CPU)),
    ),
    Goal(
        "naive_throughput_ratio",
        "throughput against the naive FastAPI + onnxruntime server, same fp32 six-layer graph",
        ">=",
        1.3,
        ratio(best(*_SIX, _PER_SECOND), best(*_NAIVE, _PER_SECOND)),
    ),
    Goal(
        "naive_cpu_ratio",
        "CPU per request against the naive server, at the most throughput of each",
        "<=",
        0.7,
        ratio(best(*_SIX, _CPU), best(*_NAIVE, _CPU)),
    ),
    Goal(
        "sentence_transformers_throughput_ratio",
        "throughput of the two-layer student against FastAPI + sentence-transformers with the teacher's backbone",
        ">=",
        10.0,
        ratio(best(*_OURS, _PER_SECOND), best(*_USUAL, _PER_SECOND)),
    ),
)

GOALS = CLOSED
