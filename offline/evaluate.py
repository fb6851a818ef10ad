"""The proof: quality of every system on the same held-out queries, and what each step to the served one loses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from offline import towers
from offline.bootstrap import Interval, Values, difference_interval, mean_interval, ratio_interval
from offline.exported import MODEL, open_graph
from offline.findings import Answer, Contrast, Example, Findings, Latency, Loss, Proof, Quality
from offline.judged import Judged, load_judged
from offline.metrics import DEPTH, METRICS, NDCG, Rows, ndcg, score
from offline.probes import probe_queries
from offline.ranking import exact_top_k
from offline.recipe import EvaluateConfig
from offline.report import write_report
from offline.stages import Job, Stage, Summary
from offline.systems import (
    BM25,
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
from snapshot.manifest import Retention

_EXAMPLES = 10
_ANSWERS = 3
_TIMED_QUERIES = 100
_WARM_QUERIES = 5


@dataclass(frozen=True)
class _Measured:
    """A system's values, query by query."""

    ranked: Ranked
    scores: dict[str, Values]
    judged_only: Values | None


def run(job: Job) -> Summary:
    """Write ``report.json``, ``report.md`` and plots; without judged queries a report that says so."""
    bench = Workbench(job)
    judged = load_judged(bench.prepared, job.recipe)
    measured = _measure(bench, judged) if judged is not None else {}
    config = job.recipe.evaluate
    retention = _retention(measured, judged, config) if judged is not None else None
    findings = Findings(
        recipe=job.recipe.name,
        backbone=job.recipe.train.backbone,
        documents=bench.prepared.documents.num_rows,
        export=bench.export,
        index=bench.index,
        latencies=_latencies(bench),
        examples=_examples(bench, judged),
        proof=_proof(measured, judged, config) if judged is not None else None,
        retention=retention,
    )
    both = (measured[TEACHER].scores[NDCG], measured[SERVED].scores[NDCG]) if measured else None
    write_report(findings, both, job.folder)
    forget_scratch(job.folder)
    if retention is None:
        return {"queries": len(judged or ())}
    return {
        "queries": retention.queries,
        "split": retention.split,
        "teacher nDCG@10": retention.teacher,
        "served nDCG@10": retention.served,
        "retained": retention.retained,
    }


def _measure(bench: Workbench, judged: Judged) -> dict[str, _Measured]:
    return {
        ranked.name: _Measured(
            ranked,
            score(judged, ranked.rows),
            None if ranked.judged_only is None else ndcg(judged, ranked.judged_only),
        )
        for ranked in rank_all(bench, judged)
    }


def _proof(measured: dict[str, _Measured], judged: Judged, config: EvaluateConfig) -> Proof:
    return Proof(
        split=judged.split,
        queries=len(judged),
        skipped=judged.skipped,
        relevance=judged.relevance,
        bootstrap=config.bootstrap,
        systems=tuple(_quality(found, config) for found in measured.values()),
        losses=tuple(_losses(measured, config)),
        contrasts=tuple(
            Contrast(baseline=baseline, difference=_lost(measured, TEACHER, baseline, config)) for baseline in (BM25, ZERO_SHOT)
        ),
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
    yield Loss(step="distillation", before=TEACHER, after=STUDENT, difference=_lost(measured, TEACHER, STUDENT, config))
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


def _examples(bench: Workbench, judged: Judged | None) -> tuple[Example, ...]:
    """Queries drawn at random from the judged ones, else from what the data has, with both answers."""
    if judged is None:
        queries, relevant = probe_queries(bench.prepared, _EXAMPLES), None
    else:
        drawn = np.random.default_rng(bench.job.recipe.evaluate.seed).permutation(len(judged))[:_EXAMPLES]
        queries = [judged.texts[place] for place in drawn]
        scores = [judged.judgements[place] for place in drawn]
        relevant = [{row for row, grade in grades.items() if grade >= judged.relevance} for grades in scores]
    if not queries:
        return ()
    teacher = exact_top_k(bench.by_torch(bench.teacher, queries), bench.documents, DEPTH)[1]
    served = bench.search(bench.by_graph(MODEL, queries))
    return tuple(
        Example(
            query=query,
            teacher=_answers(bench, teacher[place], None if relevant is None else relevant[place]),
            served=_answers(bench, served[place], None if relevant is None else relevant[place]),
        )
        for place, query in enumerate(queries)
    )


def _answers(bench: Workbench, rows: Rows, relevant: set[int] | None) -> tuple[Answer, ...]:
    found = [int(row) for row in rows[:_ANSWERS] if row >= 0]
    ids, titles = bench.prepared.documents.column("id"), bench.prepared.tower_texts.column("title")
    return tuple(
        Answer(id=ids[row].as_py(), title=titles[row].as_py(), relevant=None if relevant is None else row in relevant)
        for row in found
    )


def _latencies(bench: Workbench) -> tuple[Latency, ...]:
    texts = bench.rendered(probe_queries(bench.prepared, _TIMED_QUERIES))
    if not texts:
        return ()
    spec = bench.job.recipe.text.query
    teacher = bench.teacher.to("cpu")
    graph = open_graph(bench.job.inputs["export"], spec)
    with _one_thread():
        return (
            _time("teacher, torch", lambda text: towers.encode(teacher, spec, [text], 1), texts),
            _time(f"student, {bench.export.precision} ONNX", lambda text: graph.encode([text]), texts),
        )


def _time(tower: str, encode: Callable[[str], object], texts: Sequence[str]) -> Latency:
    for text in texts[:_WARM_QUERIES]:
        encode(text)
    milliseconds = []
    for text in texts:
        began = time.perf_counter()
        encode(text)
        milliseconds.append(1000 * (time.perf_counter() - began))
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Latency(tower=tower, p50_ms=float(p50), p99_ms=float(p99), queries=len(texts))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


STAGE = Stage(
    name="evaluate",
    run=run,
    needs=("prepare", "train", "distill", "export", "encode", "index"),
    sections=("text", "data", "train", "evaluate"),
    outside=lambda recipe, _source: {"name": recipe.name},
)
