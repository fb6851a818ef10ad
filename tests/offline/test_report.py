import json

import numpy as np
import pytest
from make_findings import FLAT, HNSW, RETENTION, findings, proof, system

from offline.bootstrap import Interval
from offline.findings import Answer, DevPoint, Example, Findings, Goal, Loss, Quality, Robustness, Slice, Swing, Width
from offline.metrics import METRICS
from offline.report import page, write_report
from snapshot.manifest import Retention

PNG = b"\x89PNG\r\n\x1a\n"
TEACHER = np.array([1.0, 0.5, 0.0])


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
    assert row(text, "teacher, torch") == "| teacher, torch | 10.500 | 12.500 | 100 | 0.5 |  |  |"
    assert row(text, "student, as served") == "| student, as served | 0.500 | 0.750 | 100 | 10.5 | 0.250 | 20.0 |"
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
    text = page(findings(proof=proof(systems=systems, losses=(), relevance=2, skipped=4, with_own=3)))
    assert row(text, "BM25").endswith("| 0.790 [0.750, 0.830] |")
    assert row(text, "as served").endswith("| as above |")
    assert "scores from 2 on" in text
    assert "4 further queries have no relevant document" in text
    assert "For 3 queries there is a document with the query's own id: it is left out" in text
    assert "own id" not in page(findings())


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


def test_what_is_behind_the_averages():
    kept = Interval(0.95, 0.9, 1.0)
    some = Example(query="kill | it", teacher=(Answer(id="d", title="kill", relevant=True),), served=())
    behind = proof(
        slices=(Slice(by="platform", name="linux", queries=1200, teacher=0.5, served=0.475, retained=kept),),
        robustness=(
            Robustness(
                variant="typo",
                queries=1000,
                changed=990,
                teacher=0.4,
                served=0.36,
                teacher_lost=Interval(0.1, 0.08, 0.12),
                served_lost=Interval(0.12, 0.1, 0.14),
                retained=Interval(0.9, 0.85, 0.95),
            ),
        ),
        widths=(
            Width(
                dim=64,
                teacher=kept,
                student=Interval(0.5, 0.4, 0.6),
                teacher_lost=Interval(0.01, 0.0, 0.02),
                student_lost=Interval(0.03, 0.02, 0.04),
            ),
        ),
        lost=(Swing(example=some, teacher=1.0, served=0.0),),
    )
    text = page(findings(proof=behind, goals=(Goal(name="retention_low", figure=0.961, bound=0.97),)))
    assert "\nGOAL retention_low 0.9610 0.97 short\n" in text
    assert row(text, "platform").endswith("| linux | 1,200 | 0.500 | 0.475 | 95.0% [90.0%, 100.0%] |")
    assert "| typo | 990 of 1,000 | 0.400 | +0.1000 [+0.0800, +0.1200] | 0.360 | +0.1200 [+0.1000, +0.1400] |" in text
    assert "| 64 | 0.950 | +0.0100 [+0.0000, +0.0200] | 0.500 | +0.0300 [+0.0200, +0.0400] |" in text
    assert "### Lost against the teacher" in text
    assert "Gained against the teacher" not in text
    assert "| ✓ kill |  | 1.00 → 0.00 |" in text


def test_goals_of_other_data_are_said_in_a_line():
    text = page(findings(goals_left_out="The recipe's own goals are of other data"))
    assert "## Goals\n\nThe recipe's own goals are of other data\n" in text


def test_figures_on_dev_say_that_dev_chose_the_weights():
    kept = RETENTION.model_copy(update={"split": "dev"})
    text = page(findings(proof=proof(split="dev"), retention=kept))
    assert "2,000 dev queries, which chose the weights too." in text
    assert "by which the weights of teacher and student were chosen: what is measured on them is too good" in text
    assert "too good" not in page(findings())


def test_the_dev_curve_is_drawn(tmp_path):
    curve = (DevPoint(step=84, epoch=1.0, ndcg=0.55), DevPoint(step=168, epoch=2.0, ndcg=0.58))
    write_report(findings(proof=None, retention=None, dev_curve=curve), None, tmp_path)
    assert (tmp_path / "dev_curve.png").read_bytes().startswith(PNG)
    text = (tmp_path / "report.md").read_text()
    assert "Best nDCG@10 while the towers were trained: 0.5800 at step 168" in text


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ("1000 dev", "Best nDCG@10 on 1000 dev queries, while the towers"),
        ("7 held-out", "Best nDCG@10 on 7 held-out queries, few, so that the best may be the luckiest, while the towers"),
    ],
)
def test_the_dev_curve_says_what_it_is_of(queries, said):
    assert said in page(findings(dev_curve=(DevPoint(step=84, epoch=1.0, ndcg=0.55),), dev_queries=queries))
