"""The parts of the report that look behind the averages: goals, slices, other spellings, widths, what changed, the dev curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline.bootstrap import Interval
from offline.findings import Answer, Findings, Proof, Swing
from offline.judged import why_too_few
from offline.markdown import cell, difference, table


def goals(findings: Findings) -> Iterable[str]:
    """The goals that this run can judge, as lines that a script can read."""
    if findings.goals or findings.goals_left_out:
        yield "## Goals"
    if findings.goals_left_out:
        yield findings.goals_left_out
    if findings.goals:
        yield (
            "Name, figure, and the least that it should be (of `run_*` and `*_ms` the most). Bounds are those of "
            "`offline/goals.py` and of `[evaluate.goals]` in the recipe. `run_*` are of the stages up to this report, also where "
            "the run was stopped and went on, without the work that a kill undid; `run` prints them again when it has published."
        )
        yield "```\n" + "\n".join(goal.describe() for goal in findings.goals) + "\n```"


def slices(proof: Proof) -> Iterable[str]:
    """Quality by kind of query."""
    if not proof.slices:
        return
    yield "## By kind of query"
    yield (
        "nDCG@10 of the teacher and as served, and the share that is kept with its 95% paired bootstrap interval. Slices of few "
        "queries have wide intervals; of many slices one in twenty is outside by chance."
    )
    rows = [
        [cell(one.by), cell(one.name), f"{one.queries:,}", f"{one.teacher:.3f}", f"{one.served:.3f}", kept(one.retained)]
        for one in proof.slices
    ]
    yield table(["by", "slice", "queries", "teacher", "as served", "kept"], rows)


def robustness(proof: Proof) -> Iterable[str]:
    """The same queries, written otherwise."""
    if not proof.robustness:
        return
    yield "## Queries written otherwise"
    yield (
        "The same queries with one change each (`offline/variants.py`): nDCG@10 afterwards, and what the change costs, paired by "
        "query. `kept` is served over teacher on the changed queries."
    )
    rows = [
        [
            one.variant,
            f"{one.changed:,} of {one.queries:,}",
            f"{one.teacher:.3f}",
            difference(one.teacher_lost),
            f"{one.served:.3f}",
            difference(one.served_lost),
            kept(one.retained),
        ]
        for one in proof.robustness
    ]
    yield table(["change", "queries changed", "teacher", "teacher loses", "as served", "served loses", "kept"], rows)


def widths(proof: Proof) -> Iterable[str]:
    """Vectors cut to fewer numbers."""
    if not proof.widths:
        return
    yield "## Narrower vectors"
    yield "nDCG@10 with vectors cut to their first numbers (exact search), and what cutting costs, paired by query."
    rows = [
        [
            f"{one.dim}",
            f"{one.teacher.estimate:.3f}",
            difference(one.teacher_lost),
            f"{one.student.estimate:.3f}",
            difference(one.student_lost),
        ]
        for one in proof.widths
    ]
    yield table(["numbers", "teacher", "teacher loses", "student", "student loses"], rows)


def changes(proof: Proof) -> Iterable[str]:
    """The queries that lost and gained most against the teacher."""
    for title, swings in (("Lost against the teacher", proof.lost), ("Gained against the teacher", proof.gained)):
        if swings:
            yield f"### {title}"
            yield table(["query", "teacher", "as served", "nDCG@10"], [_swing(one) for one in swings])


def dev_curve(findings: Findings) -> Iterable[str]:
    """How stage 1 went."""
    if findings.dev_curve:
        best = max(findings.dev_curve, key=lambda point: point.ndcg)
        yield "## Training"
        yield (
            f"Best nDCG@10 {_measured_on(findings.dev_queries)}while the towers were trained: {best.ndcg:.4f} at step "
            f"{best.step} (epoch {best.epoch:.2f})."
        )
        yield "![nDCG@10 over training](dev_curve.png)"


def _measured_on(queries: str | None) -> str:
    if queries is None:
        return ""
    few = "few, so that the best may be the luckiest, " if why_too_few(int(queries.split()[0])) else ""
    return f"on {queries} queries, {few}"


def kept(found: Interval | None) -> str:
    return "" if found is None else f"{found.estimate:.1%} [{found.low:.1%}, {found.high:.1%}]"


def answers(found: Sequence[Answer]) -> str:
    return "<br>".join(f"{'✓ ' if answer.relevant else ''}{cell(answer.title or answer.id)}" for answer in found)


def _swing(one: Swing) -> list[str]:
    example = one.example
    return [cell(example.query), answers(example.teacher), answers(example.served), f"{one.teacher:.2f} → {one.served:.2f}"]
