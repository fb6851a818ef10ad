"""The goals of the service, with the rows they are read from."""

from __future__ import annotations

from tests.bench.goals import Goal, best, highest, ratio, value
from tests.bench.scale import BUDGET_MS, HEALTH, OVERLOAD, SATURATED, TIGHT_MS

_INT8, _SIX, _NAIVE = (("closed", subject) for subject in ("ours_int8", "ours_six_layers", "naive_six_layers"))
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
        "throughput of the two-layer student (int8) against FastAPI + sentence-transformers with the teacher's backbone",
        ">=",
        10.0,
        ratio(best(*_INT8, _PER_SECOND), best(*_USUAL, _PER_SECOND)),
    ),
)

_70, _300 = (("overload", "ours", load) for load in ("70%", f"{OVERLOAD:.0%}"))
OPEN = (
    Goal("open_70_in_budget", "open loop at 70% of capacity: share within 50 ms", ">=", 0.999, value(*_70, "good_share")),
    Goal(
        "overload_goodput_of_peak",
        "3 times capacity: goodput over the peak",
        ">=",
        0.9,
        ratio(value(*_300, "good_per_second"), highest("overload", "ours", "good_per_second")),
    ),
    Goal("overload_accepted_p99_ms", "3 times capacity: p99 of accepted, ms", "<=", BUDGET_MS, value(*_300, "p99_ms")),
    Goal(
        "overload_accepted_max_ms",
        "3 times capacity: latest accepted, ms",
        "<=",
        BUDGET_MS + 10,
        value(*_300, "max_ms"),
        "worst",
    ),
    Goal(
        "overload_memory_growth",
        "3 times capacity: resident memory afterwards over before",
        "<=",
        1.05,
        value(*_300, "resident_growth"),
        "worst",
    ),
    Goal("refusal_p50_ms", "3 times capacity: 429, p50 ms", "<=", 2.0, value(*_300, "refused_p50_ms")),
    Goal("refusal_p99_ms", "3 times capacity: 429, p99 ms", "<=", 2.0, value(*_300, "refused_p99_ms")),
    *(
        Goal(
            f"overload_{path}_max_ms",
            f"3 times capacity: slowest `/{path}`, ms",
            "<=",
            50.0,
            value(*_300, f"{path}_max_ms"),
            "worst",
        )
        for path in HEALTH
    ),
)

_TIGHT = ("budget", "ours", f"{TIGHT_MS:g} ms")
BUDGET = (
    Goal("budget_5ms_in_budget", "budget of 5 ms below full effort: share within it", ">=", 0.99, value(*_TIGHT, "good_share")),
    Goal("budget_5ms_marked", "budget of 5 ms: answers marked as degraded", ">=", 0.99, value(*_TIGHT, "marked_share")),
    Goal(
        "budget_5ms_recall_gap",
        "budget of 5 ms: recall@10 against exact search, distance to `expected_recall`",
        "<=",
        0.02,
        value(*_TIGHT, "recall_gap"),
    ),
)

_MILLION = ("million", "ours", "c=1")
MILLION = (
    Goal("million_ready_seconds", "1M documents: from start to ready, s", "<=", 3.0, value(*_MILLION, "ready_seconds")),
    Goal(
        "million_resident_over_touched",
        "1M documents: resident growth over pages touched",
        "<=",
        1.1,
        value(*_MILLION, "resident_growth_over_touched"),
    ),
    Goal(
        "million_p50_over_encoding_ms",
        "1M documents: p50 above the floor of encoding, ms",
        "<=",
        2.0,
        value(*_MILLION, "over_encoding_ms"),
    ),
    Goal(
        "second_process_share_of_index",
        "a second process on the same snapshot, over the index's bytes",
        "<=",
        0.15,
        value(*_MILLION, "second_process_share"),
    ),
)

GOALS = (*CLOSED, *OPEN, *BUDGET, *MILLION)
