"""The proof: quality of every system on the same held-out queries, and what each step to the served one loses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from offline import card, towers
from offline.aspects import measure_robustness, measure_slices, measure_widths, swings
from offline.bootstrap import Interval, Values, difference_interval, mean_interval, ratio_interval
from offline.config import EvaluateConfig
from offline.cost import Cost, cost_of
from offline.cuts import count_cuts
from offline.exported import FP32, MODEL, open_graph
from offline.findings import Answer, Contrast, DevPoint, Example, Findings, Latency, Loss, Proof, Quality, Swing
from offline.fingerprints import backbone_fingerprint
from offline.goals import SERVED_TOWER, STUDENT_FP32, TEACHER_ONNX, bounds_on, judge
from offline.judged import Judged, load_judged
from offline.metrics import METRICS, NDCG, Rows, ndcg, score
from offline.prepare import data_digest
from offline.probes import probe_queries
from offline.progress import say
from offline.ranking import exact_top_k
from offline.report import write_report
from offline.slices import cut
from offline.stages import INPUTS, RECEIPT, Job, Stage, Summary
from offline.systems import (
    BM25,
    DISTILLED,
    FP32_GRAPH,
    INT8_GRAPH,
    SERVED,
    STUDENT,
    TEACHER,
    ZERO_SHOT,
    Ranked,
    Workbench,
    forget_scratch,
    rank_all,
)
from offline.timing import Encoder, time_towers
from offline.trainer import RESULT
from snapshot.files import write_text
from snapshot.manifest import Retention

_EXAMPLES = 10
_ANSWERS = 3
_SWINGS = 8
_TIMED_QUERIES = 100


@dataclass(frozen=True)
class _Measured:
    """A system's values, query by query."""

    ranked: Ranked
    scores: dict[str, Values]
    judged_only: Values | None


def run(job: Job, baselines: bool = True) -> Summary:
    """Write ``report.json``, ``report.md`` and plots; without judged queries a report that says so.

    ``baselines``: BM25 and the untouched backbone too, which costs as much as encoding every document.
    """
    bench = Workbench(job)
    judged = load_judged(bench.prepared, job.recipe)
    if judged is None:
        findings = _findings(bench, _unjudged_examples(bench))
        write_report(findings, None, job.folder)
        write_text(job.folder / card.CARD, card.write(findings, job))
        forget_scratch(job.folder)
        return {"queries": 0}
    measured = _measure(bench, judged, baselines)
    proof = _proof(measured, judged, job.recipe.evaluate).model_copy(update=_closer(bench, measured, judged))
    retention = _retention(measured, judged, job.recipe.evaluate)
    findings = _findings(bench, _judged_examples(bench, measured, judged), proof, retention)
    write_report(findings, (measured[TEACHER].scores[NDCG], measured[SERVED].scores[NDCG]), job.folder)
    write_text(job.folder / card.CARD, card.write(findings, job))
    forget_scratch(job.folder)
    return {
        "queries": len(judged),
        "split": judged.split,
        "teacher nDCG@10": float(measured[TEACHER].scores[NDCG].mean()),
        "served nDCG@10": float(measured[SERVED].scores[NDCG].mean()),
        "retained": retention.retained if retention is not None else None,
    }


def _findings(
    bench: Workbench, examples: tuple[Example, ...], proof: Proof | None = None, retention: Retention | None = None
) -> Findings:
    curve, dev_queries = _dev(bench)
    found = Findings(
        recipe=bench.job.recipe.name,
        backbone=bench.job.recipe.train.backbone,
        documents=bench.prepared.documents.num_rows,
        export=bench.export,
        index=bench.index,
        latencies=_latencies(bench),
        examples=examples,
        proof=proof,
        retention=retention,
        dev_curve=curve,
        dev_queries=dev_queries,
        cuts=count_cuts(bench.prepared, bench.job.recipe, bench.teacher, bench.document_tower),
    )
    wanted, left_out = bounds_on(data_digest(bench.job.source), bench.job.recipe)
    goals = judge(found, _train_pairs(bench), wanted, _cost(bench.job))
    for goal in goals:
        say(f"  {goal.describe()}")
    if left_out:
        say(f"  {left_out}")
    return found.model_copy(update={"goals": goals, "goals_left_out": left_out})


def _cost(job: Job) -> Cost | None:
    """Of the stages so far, this one among them; None where they have no receipts."""
    receipts = [folder / RECEIPT for folder in job.inputs.values()]
    return cost_of(receipts, job.folder / INPUTS) if all(path.is_file() for path in receipts) else None


def _train_pairs(bench: Workbench) -> int:
    """Judged ones: pairs of titles and texts are no promise that queries are met."""
    relevance = bench.job.recipe.data.relevance
    return sum(row["split"] == "train" and row["score"] >= relevance for row in bench.prepared.qrels.to_pylist())


def _dev(bench: Workbench) -> tuple[tuple[DevPoint, ...], str | None]:
    """What stage 1 measured while it trained, and on what; nothing for towers that were not trained here."""
    path = bench.job.inputs["train"] / RESULT
    log = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    curve = tuple(DevPoint.model_validate(point, extra="ignore") for point in log.get("dev_curve", ()))
    return curve, log.get("dev_queries")


def _measure(bench: Workbench, judged: Judged, baselines: bool) -> dict[str, _Measured]:
    return {
        ranked.name: _Measured(
            ranked,
            score(judged, ranked.rows),
            None if ranked.judged_only is None else ndcg(judged, ranked.judged_only),
        )
        for ranked in rank_all(bench, judged, baselines)
    }


def _proof(measured: dict[str, _Measured], judged: Judged, config: EvaluateConfig) -> Proof:
    return Proof(
        split=judged.split,
        queries=len(judged),
        skipped=judged.skipped,
        with_own=judged.with_own,
        relevance=judged.relevance,
        bootstrap=config.bootstrap,
        systems=tuple(_quality(found, config) for found in measured.values()),
        losses=tuple(_losses(measured, config)),
        contrasts=tuple(
            Contrast(
                baseline=baseline,
                difference=_lost(measured, TEACHER, baseline, config),
                unanswered=int((measured[baseline].ranked.rows < 0).all(axis=1).sum()),
            )
            for baseline in (BM25, ZERO_SHOT)
            if baseline in measured
        ),
    )


def _closer(bench: Workbench, measured: dict[str, _Measured], judged: Judged) -> dict[str, object]:
    """What the averages hide: slices, other spellings, narrower vectors, the queries that changed most."""
    teacher, served = (measured[name].scores[NDCG] for name in (TEACHER, SERVED))
    lost, gained = swings(teacher, served, _SWINGS)
    return {
        "slices": measure_slices(cut(judged, bench.prepared), teacher, served, bench.job.recipe.evaluate),
        "robustness": measure_robustness(bench, judged, teacher, served),
        "widths": measure_widths(bench, judged),
        "lost": _swings(bench, measured, judged, lost),
        "gained": _swings(bench, measured, judged, gained),
    }


def _swings(bench: Workbench, measured: dict[str, _Measured], judged: Judged, places: Iterable[int]) -> tuple[Swing, ...]:
    teacher, served = (measured[name].scores[NDCG] for name in (TEACHER, SERVED))
    return tuple(
        Swing(example=example, teacher=float(teacher[place]), served=float(served[place]))
        for place, example in zip(places, _examples_at(bench, measured, judged, places), strict=True)
    )


def _quality(found: _Measured, config: EvaluateConfig) -> Quality:
    return Quality(
        name=found.ranked.name,
        title=found.ranked.title,
        metrics={metric: mean_interval(found.scores[metric], config.bootstrap, config.seed) for metric in METRICS},
        judged_only=None if found.judged_only is None else mean_interval(found.judged_only, config.bootstrap, config.seed),
    )


def _losses(measured: dict[str, _Measured], config: EvaluateConfig) -> Iterator[Loss]:
    chosen = INT8_GRAPH if INT8_GRAPH in measured else FP32_GRAPH
    distilled = DISTILLED if DISTILLED in measured else STUDENT
    yield Loss(step="distillation", before=TEACHER, after=distilled, difference=_lost(measured, TEACHER, distilled, config))
    if distilled != STUDENT:
        yield Loss(step="refinement", before=distilled, after=STUDENT, difference=_lost(measured, distilled, STUDENT, config))
    yield Loss(step="export", before=STUDENT, after=FP32_GRAPH, difference=_lost(measured, STUDENT, FP32_GRAPH, config))
    yield Loss(step="quantisation", before=FP32_GRAPH, after=chosen, difference=_lost(measured, FP32_GRAPH, chosen, config))
    yield Loss(step="approximate search", before=chosen, after=SERVED, difference=_lost(measured, chosen, SERVED, config))


def _lost(measured: dict[str, _Measured], before: str, after: str, config: EvaluateConfig) -> Interval:
    first, second = (measured[name].scores[NDCG] for name in (before, after))
    return difference_interval(first, second, config.bootstrap, config.seed)


def _retention(measured: dict[str, _Measured], judged: Judged, config: EvaluateConfig) -> Retention | None:
    teacher, served = (measured[name].scores[NDCG] for name in (TEACHER, SERVED))
    kept = ratio_interval(served, teacher, config.bootstrap, config.seed)
    if kept is None:
        return None
    return Retention(
        metric=NDCG,
        split=judged.split,
        queries=len(judged),
        teacher=float(teacher.mean()),
        served=float(served.mean()),
        retained=kept.estimate,
        low=kept.low,
        high=kept.high,
    )


def _judged_examples(bench: Workbench, measured: dict[str, _Measured], judged: Judged) -> tuple[Example, ...]:
    """Queries drawn at random, with what the teacher and the service answered."""
    drawn = np.random.default_rng(bench.job.recipe.evaluate.seed).permutation(len(judged))[:_EXAMPLES]
    return _examples_at(bench, measured, judged, drawn.tolist())


def _examples_at(bench: Workbench, measured: dict[str, _Measured], judged: Judged, places: Iterable[int]) -> tuple[Example, ...]:
    teacher, served = (measured[name].ranked.rows for name in (TEACHER, SERVED))
    relevant = [{row for row, grade in grades.items() if grade >= judged.relevance} for grades in judged.judgements]
    return tuple(
        Example(
            query=judged.texts[place],
            teacher=_answers(bench, teacher[place], relevant[place]),
            served=_answers(bench, served[place], relevant[place]),
        )
        for place in places
    )


def _unjudged_examples(bench: Workbench) -> tuple[Example, ...]:
    """Queries that the data happens to have, with both answers."""
    queries = probe_queries(bench.prepared, _EXAMPLES)
    if not queries:
        return ()
    teacher = exact_top_k(bench.by_torch(bench.teacher, queries), bench.documents, _ANSWERS)[1]
    served = bench.search(bench.by_graph(MODEL, queries))
    return tuple(
        Example(query=query, teacher=_answers(bench, ours, None), served=_answers(bench, theirs, None))
        for query, ours, theirs in zip(queries, teacher, served, strict=True)
    )


def _answers(bench: Workbench, rows: Rows, relevant: set[int] | None) -> tuple[Answer, ...]:
    found = [int(row) for row in rows[:_ANSWERS] if row >= 0]
    ids, titles = bench.prepared.documents.column("id"), bench.prepared.tower_texts.column("title")
    return tuple(
        Answer(id=ids[row].as_py(), title=titles[row].as_py(), relevant=None if relevant is None else row in relevant)
        for row in found
    )


def _latencies(bench: Workbench) -> tuple[Latency, ...]:
    """The teacher's query tower in torch and in the runtime that serves, and the student in fp32 and as it is served."""
    texts = bench.rendered(probe_queries(bench.prepared, _TIMED_QUERIES))
    if not texts:
        return ()
    spec, export = bench.job.recipe.text.query, bench.job.inputs["export"]
    teacher = bench.teacher.to("cpu").float().eval()
    graph, fp32, served = bench.teacher_graph(teacher), open_graph(export, spec, FP32), open_graph(export, spec)
    encoders = {"teacher, torch": Encoder(lambda text: towers.encode(teacher, spec, [text], 1))}
    for name, each in ((TEACHER_ONNX, graph), (STUDENT_FP32, fp32), (SERVED_TOWER, served)):
        if each is not None:
            encoders[name] = Encoder(each.run, each.tokenize)
    return time_towers(encoders, texts)


STAGE = Stage(
    name="evaluate",
    run=run,
    needs=("prepare", "train", "distill", "refine", "export", "encode", "index"),
    sections=("text", "data", "train", "evaluate"),
    outside=lambda recipe, _source: {"name": recipe.name, "backbone": backbone_fingerprint(recipe.train.backbone)},
    version=7,
)
