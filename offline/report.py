"""The page that proves a snapshot: Markdown with plots beside it, made from the findings alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from offline import plots, report_aspects
from offline.bootstrap import Values
from offline.exported import Gate
from offline.findings import WORTH_SAYING, Findings, Proof
from offline.goals import TEACHER_ONNX
from offline.markdown import cell, difference, estimate, table, yes
from offline.metrics import METRICS
from snapshot.files import write_text

PAGE = "report.md"
FINDINGS = "report.json"


def write_report(findings: Findings, ndcg: tuple[Values, Values] | None, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and the plots that it shows.

    Args:
        findings: everything that the page says.
        ndcg: nDCG@10 float64[q] of the teacher and of what is served, query by query; None without judged queries.
        folder: where to write.
    """
    write_text(folder / FINDINGS, findings.model_dump_json(indent=2))
    if findings.proof is not None and ndcg is not None:
        plots.draw_quality(findings.proof, folder / "quality.png")
        plots.draw_losses(findings.proof, folder / "losses.png")
        plots.draw_retention(*ndcg, folder / "retention.png")
    if len(findings.index.efforts) > 1:
        plots.draw_effort(findings, folder / "effort.png")
    if findings.dev_curve:
        plots.draw_dev_curve(findings.dev_curve, folder / "dev_curve.png")
    write_text(folder / PAGE, page(findings))


def page(findings: Findings) -> str:
    """The Markdown page."""
    proof = findings.proof
    sections = [
        f"# {findings.recipe}: what was built, and how good it is",
        _built(findings),
        *report_aspects.goals(findings),
        *(_quality(proof) if proof is not None else (_NO_PROOF,)),
        *(_behind_the_averages(proof) if proof is not None else ()),
        *report_aspects.dev_curve(findings),
        *_export(findings),
        *_effort(findings),
        *_latency(findings),
        *_examples(findings),
        *(report_aspects.changes(proof) if proof is not None else ()),
        _COMMANDS.format(recipe=findings.recipe),
    ]
    return "\n\n".join(sections) + "\n"


def _behind_the_averages(proof: Proof) -> Iterable[str]:
    for part in (report_aspects.slices, report_aspects.robustness, report_aspects.widths):
        yield from part(proof)


_NO_PROOF = (
    "**No judged queries.** The data has neither `qrels/test.tsv` nor `qrels/dev.tsv` with a relevant document, so quality, "
    "losses and retention cannot be measured. What the towers return is under Examples."
)

_GATES = {"parity_distance": "to torch", "batch_distance": "in other batches", "ndcg_at_10_loss": "nDCG@10 lost"}
_EXPORT_NOTE = (
    "One query at a time on one thread of the machine that built it. Distances are 1 - cosine, the greatest met: of fp32 to "
    "torch, of the others to fp32. The last three columns are gates, each with its bound."
)

_COMMANDS = """## To repeat it

```
python -m offline run RECIPE --data DIR
python -m offline evaluate RECIPE --data DIR
python -m offline evaluate RECIPE --data DIR --service http://127.0.0.1:8000
```

RECIPE is the file of the recipe `{recipe}`; give the `--set` and `--query-log` options of this run, if it had any. The first
makes everything and keeps what is there already; the second this page alone; the third asks a running service
the same queries over HTTP. `report.json` holds every figure of this page."""


def _built(findings: Findings) -> str:
    export, index = findings.export, findings.index
    return (
        f"{findings.documents:,} documents, encoded by a document tower trained from `{findings.backbone}`; a query tower of "
        f"{export.layers} layers and {export.parameters / 1e6:.1f} million parameters, distilled from the teacher's and served "
        f"as {export.precision} ONNX; a {index.kind} index, searched at effort {index.default_effort}.\n\n"
        f"- precision: {export.reason}\n- index: {index.reason}\n"
        + "".join(f"- length: {each.describe()}\n" for each in findings.cuts if each.sample)
        + "".join(f"- unknown: {each.describe_unknown()}\n" for each in findings.cuts if each.unknown_share >= WORTH_SAYING)
        + f"\n{_retention(findings)}"
    )


def _retention(findings: Findings) -> str:
    kept = findings.retention
    if kept is None:
        return "Retention is not known."
    return (
        f"**As served, it keeps {kept.retained:.1%} of the teacher's {kept.metric}** ({kept.served:.3f} of {kept.teacher:.3f}; "
        f"95% paired bootstrap interval {kept.low:.1%} to {kept.high:.1%}) on {kept.queries:,} {kept.split} queries"
        f"{', which chose the weights too' if kept.split == 'dev' else ''}."
    )


def _quality(proof: Proof) -> Iterable[str]:
    yield "## Quality"
    yield _quality_note(proof)
    judged_only = any(system.judged_only is not None for system in proof.systems)
    header = ["system", *METRICS] + (["nDCG@10, judged only"] if judged_only else [])
    rows = []
    for system in proof.systems:
        extra = [estimate(system.judged_only) if system.judged_only is not None else "as above"] if judged_only else []
        rows.append([system.title, *(estimate(system.metrics[metric]) for metric in METRICS), *extra])
    yield table(header, rows)
    if judged_only:
        yield _JUDGED_ONLY
    yield "\n".join(_contrasts(proof))
    yield "![Quality of each system](quality.png)"
    yield "## Where quality is lost"
    yield "nDCG@10 before the step minus after it, paired by query; a loss below zero is a gain."
    yield table(["step", "from", "to", "nDCG@10 lost", "zero outside the interval"], _losses(proof))
    yield "![Losses from the teacher to the service](losses.png)"
    yield "![Teacher and service, query by query](retention.png)"


def _quality_note(proof: Proof) -> str:
    skipped = f" {proof.skipped:,} further queries have no relevant document and are left out." if proof.skipped else ""
    cut = (
        f" Recall and MRR count scores from {proof.relevance} on; nDCG has the gain 2^score - 1, which is the plain one where "
        "judgements are 0 and 1."
    )
    own = (
        f" For {proof.with_own:,} queries there is a document with the query's own id: it is left out of their answers, as "
        "BEIR's evaluation does."
        if proof.with_own
        else ""
    )
    return (
        f"On {proof.queries:,} {proof.split} queries, by ir-measures; in brackets 95% percentile bootstrap intervals over "
        f"{proof.bootstrap:,} resamples of the queries.{cut}{skipped}{own}"
        f"{f' **{CHOSE_WEIGHTS}**' if proof.split == 'dev' else ''}"
    )


CHOSE_WEIGHTS = (
    "These are dev queries, by which the weights of teacher and student were chosen: what is measured on them is too good. The "
    "proof needs a test split, qrels/test.tsv."
)


_JUDGED_ONLY = (
    "*Judged only* orders just the judged documents of each query. The judgements are a pool: documents that no rater saw "
    "count as wrong in the plain figures, which is unfair to a system that the pool was not drawn from."
)


def _contrasts(proof: Proof) -> Iterable[str]:
    titles = {system.name: system.title for system in proof.systems}
    for contrast in proof.contrasts:
        found = contrast.difference
        outside = (
            "zero is outside the interval: yes" if found.excludes_zero else "zero is outside the interval: no, it may be noise"
        )
        yield f"- teacher minus {titles[contrast.baseline]}: {difference(found)} nDCG@10; {outside}."


def _losses(proof: Proof) -> list[list[str]]:
    titles = {system.name: system.title for system in proof.systems}
    return [
        [
            loss.step,
            titles[loss.before],
            titles[loss.after] if loss.after != loss.before else "the same: nothing is quantised",
            difference(loss.difference),
            yes(loss.difference.excludes_zero),
        ]
        for loss in proof.losses
    ]


def _export(findings: Findings) -> Iterable[str]:
    yield "## Export"
    rows = [
        [
            f"**{trial.name}** (served)" if trial.name == findings.export.name else trial.name,
            f"{trial.speedup:.2f}",
            f"{trial.megabytes:.1f}",
            f"{trial.distance:.2g}",
            *(_gate(trial.gates, name) for name in _GATES),
        ]
        for trial in findings.export.trials
    ]
    yield table(["graph", "times as fast", "MB", "distance", *_GATES.values()], rows)
    yield _EXPORT_NOTE


def _gate(gates: Sequence[Gate], name: str) -> str:
    for gate in gates:
        if gate.name == name:
            return f"{gate.value:.2g} of {gate.limit:.2g}{'' if gate.passed else ', **fails**'}"
    return ""


def _effort(findings: Findings) -> Iterable[str]:
    yield "## Search effort"
    yield "Measured at build with the student's queries, one thread, against exact search; the service chooses from these."
    rows = [
        [
            f"**{row.effort}** (default)" if row.effort == findings.index.default_effort else f"{row.effort}",
            f"{row.recall_at_10:.3f}",
            f"{row.p50_ms:.3f}",
            f"{row.p99_ms:.3f}",
        ]
        for row in findings.index.efforts
    ]
    yield table(["effort", "recall@10", "p50 ms", "p99 ms"], rows)
    if len(findings.index.efforts) > 1:
        yield "![Recall over search time](effort.png)"


def _latency(findings: Findings) -> Iterable[str]:
    yield "## Time to encode a query"
    yield (
        "One query at a time, in turns on one thread of the machine that built this; CPU time, a query's median over five "
        "rounds. The first columns have tokenization in them, the last two not."
    )
    teacher = next((found for found in findings.latencies if found.tower == TEACHER_ONNX), None)
    whole, alone = (None, None) if teacher is None else (teacher.p50_ms, teacher.encode_p50_ms)
    rows = [
        [
            found.tower,
            f"{found.p50_ms:.3f}",
            f"{found.p99_ms:.3f}",
            f"{found.queries}",
            _times(whole, found.p50_ms),
            "" if found.encode_p50_ms is None else f"{found.encode_p50_ms:.3f}",
            _times(alone, found.encode_p50_ms),
        ]
        for found in findings.latencies
    ]
    faster = "times as fast as the teacher in onnxruntime"
    yield table(["query tower", "p50 ms", "p99 ms", "queries", faster, "encoding alone, p50 ms", faster], rows)


def _times(teacher_ms: float | None, ms: float | None) -> str:
    return "" if teacher_ms is None or ms is None else f"{teacher_ms / ms:.1f}"


def _examples(findings: Findings) -> Iterable[str]:
    yield "## Examples"
    yield (
        "Queries drawn at random, with the best answers. ✓ marks a relevant document."
        if findings.proof
        else "Queries drawn at random."
    )
    rows = [
        [cell(example.query), report_aspects.answers(example.teacher), report_aspects.answers(example.served)]
        for example in findings.examples
    ]
    yield table(["query", "teacher", "as served"], rows)
