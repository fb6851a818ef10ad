"""Goals that an evaluation can judge. Bounds are data: a table here, and ``[evaluate.goals]`` in the recipe over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from offline.config import GoalName
from offline.cost import Cost
from offline.findings import Contrast, Findings, Goal
from offline.judged import why_too_few
from offline.recipe import Recipe

BOUNDS: Mapping[GoalName, float] = {
    "teacher_over_bm25_low": 0.0,
    "teacher_over_zero_shot_low": 0.0,
    "latency_ratio_fp32": 3.0,
    "latency_ratio_served": 8.0,
}
"""Of every recipe; ``*_ndcg10`` and ``run_*`` have one only where a recipe sets it, since data sets and machines differ.
``teacher_over_*_low``: lower end of the paired interval of nDCG@10; ``latency_ratio_*``: the teacher's query tower over the
student, both in onnxruntime, tokenization left out, as in the service's stage ``encode``."""

AT_MOST: frozenset[GoalName] = frozenset({"latency_served_ms", "run_minutes", "run_resident_gb"})
"""Of these less is better: a query's encoding as served, without its tokenization, and what all stages up to the report took."""

ABOVE: frozenset[GoalName] = frozenset({"teacher_over_bm25_low", "teacher_over_zero_shot_low"})
"""Of these the bound itself is not enough: a teacher that is the untouched backbone has not beaten it."""

BY_QUERIES: frozenset[GoalName] = ABOVE | {"teacher_ndcg10", "served_ndcg10", "retention_low"}
"""These are means over judged queries, of which a few prove nothing."""

WITHOUT_LAYERS: Mapping[GoalName, float] = {"latency_served_ms": 0.1}
"""Of students that are a vector a token, too."""

RETENTION_BOUNDS: tuple[tuple[int, float], ...] = ((3, 0.985), (1, 0.97), (0, 0.90))
"""``retention_low`` of a student of at least so many layers."""

ENOUGH_PAIRS = 5000
"""From so many judged training pairs on a teacher has to beat both baselines."""


def bounds_on(data: str, recipe: Recipe) -> tuple[Mapping[GoalName, float], str | None]:
    """The recipe's own bounds, on data with the sha256 ``data``; and why there are none where they are of other data.

    What a teacher reaches, and what a run takes, says something of one data set only, and of all its documents and queries.
    """
    config = recipe.evaluate
    if not config.goals or not config.goals_data:
        return config.goals, None
    own = f"The recipe's own goals ({', '.join(config.goals)}) are of"
    if not data.startswith(config.goals_data):
        return {}, (
            f"{own} other data and not judged: evaluate.goals_data is {config.goals_data}, the sha256 of this data "
            f"{data[:12] or 'not known'}."
        )
    if parts := _parts(recipe):
        return {}, f"{own} all of this data's test queries and not judged with {', '.join(parts)}."
    return config.goals, None


def _parts(recipe: Recipe) -> list[str]:
    """Settings that measure on a part of the data, or on its other split."""
    data, evaluate = recipe.data, recipe.evaluate
    settings = {
        "data.max_documents": data.max_documents,
        "evaluate.max_queries": evaluate.max_queries,
        "evaluate.split": None if evaluate.split == "test" else evaluate.split,
    }
    return [f"{name} = {value}" for name, value in settings.items() if value is not None]


def judge(findings: Findings, pairs: int, wanted: Mapping[GoalName, float], cost: Cost | None = None) -> tuple[Goal, ...]:
    """Every goal that has a figure and a bound.

    Args:
        findings: what was measured.
        pairs: judged ones that the teacher could learn from.
        wanted: bounds of the recipe.
        cost: of the stages so far; None leaves the goals of the run out.
    """
    layers = findings.export.layers
    retention = next(bound for least, bound in RETENTION_BOUNDS if layers >= least)
    more = {} if layers else WITHOUT_LAYERS
    bounds: dict[GoalName, float] = {**BOUNDS, **more, "retention_low": retention, **wanted}
    figures = dict(_figures(findings))
    if pairs < ENOUGH_PAIRS:
        bounds = {name: bound for name, bound in bounds.items() if not name.startswith("teacher_over") or name in wanted}
    return (*_compare(figures, bounds, dict(_nothing_proved(findings))), *(judge_cost(cost, wanted) if cost is not None else ()))


def judge_cost(cost: Cost, wanted: Mapping[GoalName, float]) -> tuple[Goal, ...]:
    """The goals of a run, where the recipe has bounds for them."""
    figures = {"run_minutes": cost.seconds / 60}
    if cost.resident_bytes is not None:
        figures["run_resident_gb"] = cost.resident_bytes / 1e9
    return _compare(figures, wanted)


def _nothing_proved(findings: Findings) -> Iterator[tuple[str, str]]:
    """Names of figures that prove nothing, and why."""
    proof = findings.proof
    if proof is None:
        return
    for contrast in proof.contrasts:
        if 2 * contrast.unanswered > proof.queries:
            why = f"{contrast.baseline} finds no document at all for {contrast.unanswered:,} of {proof.queries:,} queries"
            yield _over(contrast), why
    if few := why_too_few(proof.queries):
        yield from ((name, few) for name in BY_QUERIES)


def _compare(
    figures: Mapping[str, float], bounds: Mapping[GoalName, float], whys: Mapping[str, str] | None = None
) -> tuple[Goal, ...]:
    """``whys``: of figures that prove nothing, the reason."""
    return tuple(
        Goal(
            name=name,
            figure=figures[name],
            bound=bound,
            at_most=name in AT_MOST,
            above=name in ABOVE,
            why=(whys or {}).get(name),
        )
        for name, bound in bounds.items()
        if name in figures
    )


def _figures(findings: Findings) -> Iterator[tuple[str, float]]:
    proof, kept = findings.proof, findings.retention
    if proof is not None:
        for contrast in proof.contrasts:
            yield _over(contrast), contrast.difference.low
    if kept is not None:
        yield "teacher_ndcg10", kept.teacher
        yield "served_ndcg10", kept.served
        yield "retention_low", kept.low
    times = {latency.tower: latency.encode_p50_ms for latency in findings.latencies if latency.encode_p50_ms is not None}
    for name, tower in (("fp32", STUDENT_FP32), ("served", SERVED_TOWER)):
        if TEACHER_ONNX in times and tower in times:
            yield f"latency_ratio_{name}", times[TEACHER_ONNX] / times[tower]
    if SERVED_TOWER in times:
        yield "latency_served_ms", times[SERVED_TOWER]


def _over(contrast: Contrast) -> str:
    return f"teacher_over_{contrast.baseline.replace('-', '_')}_low"


TEACHER_ONNX = "teacher, fp32 ONNX"
STUDENT_FP32 = "student, fp32 ONNX"
SERVED_TOWER = "student, as served"
