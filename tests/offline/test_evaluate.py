"""The stage on tiny towers; oracles: torch and numpy, and what must hold between the figures."""

import json
from dataclasses import replace
from math import log2

import numpy as np
import pyarrow as pa
import pytest
from tiny_work import make_prepared, make_student, make_towers

from offline import encode, evaluate, export, index, plots, towers
from offline.config import EvaluateConfig, ExportConfig, IndexConfig, TrainConfig
from offline.data.prepared import QRELS, Prepared, write_table
from offline.encoded import load_vectors
from offline.findings import Findings
from offline.metrics import MRR, NDCG
from offline.recipe import Recipe
from offline.stages import Job, Source
from snapshot.text import render_query

ROWS = 60
pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job whose inputs are finished: an untrained teacher, another student, int8 whatever it costs, HNSW."""
    work = tmp_path_factory.mktemp("work")
    recipe = Recipe(
        name="toy",
        train=TrainConfig(backbone=str(work / "train" / "backbone")),
        export=ExportConfig(precision="int8", max_int8_ndcg_loss=1.0, max_batch_distance=1.0),
        index=IndexConfig(kind="hnsw", probe_queries=10),
        evaluate=EvaluateConfig(bootstrap=40),
    )
    inputs = {"prepare": make_prepared(work / "prepare", ROWS), "train": make_towers(work / "train")}
    inputs["distill"] = inputs["refine"] = make_student(work / "distill")
    for name, stage in (("encode", encode), ("export", export), ("index", index)):
        inputs[name] = work / name
        inputs[name].mkdir()
        stage.run(Job(recipe, Source(), inputs[name], inputs))
    (work / "evaluate").mkdir()
    return Job(recipe, Source(), work / "evaluate", inputs)


@pytest.fixture(scope="module")
def summary(job):
    return evaluate.run(job)


@pytest.fixture
def found(job, summary):
    return read(job)


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take a second each; one run with them is enough."""
    monkeypatch.setattr(plots, "save", lambda figure, path: None)


def read(job):
    return Findings.model_validate_json((job.folder / "report.json").read_bytes())


def with_data(job, tmp_path, splits):
    """The job with other queries."""
    (tmp_path / "evaluate").mkdir()
    inputs = {**job.inputs, "prepare": make_prepared(tmp_path / "prepare", ROWS, splits)}
    return replace(job, inputs=inputs, folder=tmp_path / "evaluate")


def ndcg_of(found, name):
    return next(system for system in found.proof.systems if system.name == name).metrics[NDCG].estimate


def test_every_system_is_measured_on_the_same_queries(found):
    names = [system.name for system in found.proof.systems]
    assert names == ["bm25", "zero-shot", "teacher", "student", "student-fp32", "student-int8", "served"]
    assert (found.proof.split, found.proof.queries, found.documents) == ("test", ROWS // 3, ROWS)


def test_the_teacher_is_its_two_towers_and_exact_search(found, job):
    prepared, spec = Prepared(job.inputs["prepare"]), job.recipe.text.query
    rows = [row for row in range(ROWS) if row % 3 == 2]
    queries = [prepared.queries.column("text")[row].as_py() for row in rows]
    tower = towers.load_tower(job.inputs["train"] / "query_tower")
    vectors = towers.encode(tower, spec, [render_query(spec, query) for query in queries], 4)
    scores = vectors @ load_vectors(job.inputs["encode"]).T
    ranks = [1 + int(np.sum(line > line[row])) for line, row in zip(scores, rows, strict=True)]
    teacher = next(system for system in found.proof.systems if system.name == "teacher")
    assert teacher.metrics[NDCG].estimate == pytest.approx(np.mean([1 / log2(rank + 1) * (rank <= 10) for rank in ranks]))
    assert teacher.metrics[MRR].estimate == pytest.approx(np.mean([1 / rank * (rank <= 10) for rank in ranks]))


def test_losses_add_up_to_what_is_between_teacher_and_service(found):
    assert [loss.step for loss in found.proof.losses] == ["distillation", "export", "quantisation", "approximate search"]
    assert sum(loss.difference.estimate for loss in found.proof.losses) == pytest.approx(
        ndcg_of(found, "teacher") - ndcg_of(found, "served")
    )


def test_an_untrained_teacher_is_the_untouched_backbone(found):
    """Both sides of the baseline are the backbone, encoded anew: another path to the same vectors."""
    zero_shot = next(contrast for contrast in found.proof.contrasts if contrast.baseline == "zero-shot")
    assert (zero_shot.difference.estimate, zero_shot.difference.excludes_zero) == (0.0, False)


def test_queries_that_a_baseline_has_no_answer_to_are_counted(job, tmp_path, undrawn):
    other = with_data(job, tmp_path, splits=("test",))
    texts = Prepared(other.inputs["prepare"]).queries["text"].to_pylist()
    table = Prepared(other.inputs["prepare"]).queries.set_column(1, "text", pa.array(["zzz", "qqq", *texts[2:]]))
    write_table(table, tmp_path / "prepare" / "queries.arrow")
    evaluate.run(other)
    assert {one.baseline: one.unanswered for one in read(other).proof.contrasts} == {"bm25": 2, "zero-shot": 0}


def test_retention_is_what_pack_reads(found, job, summary):
    retention = json.loads((job.folder / "report.json").read_text())["retention"]
    assert retention["retained"] == pytest.approx(ndcg_of(found, "served") / ndcg_of(found, "teacher"))
    assert retention["low"] <= retention["retained"] <= retention["high"]
    assert summary["retained"] == retention["retained"]


def test_examples_mark_what_is_relevant(found, job):
    ids = Prepared(job.inputs["prepare"]).documents.column("id").to_pylist()
    texts = Prepared(job.inputs["prepare"]).tower_texts.column("text").to_pylist()
    assert len(found.examples) == 10
    for example in found.examples:
        expected = ids[[text.startswith(example.query) for text in texts].index(True)]
        assert all(answer.relevant == (answer.id == expected) for answer in (*example.teacher, *example.served))
        assert len(example.teacher) == len(example.served) == 3


def test_towers_are_timed(found):
    towers = ["teacher, torch", "teacher, fp32 ONNX", "student, fp32 ONNX", "student, as served"]
    assert [latency.tower for latency in found.latencies] == towers
    assert all(0 < latency.p50_ms <= latency.p99_ms for latency in found.latencies)


def test_only_the_report_is_left(job, summary):
    assert {path.name for path in job.folder.iterdir()} == {
        *("report.md", "report.json", "model_card.md"),
        *("quality.png", "losses.png", "retention.png", "effort.png"),
    }


def test_without_judged_queries_there_is_a_report_without_metrics(job, tmp_path, undrawn, capsys):
    other = with_data(job, tmp_path, splits=("train",))
    assert evaluate.run(other) == {"queries": 0}
    found = read(other)
    assert (found.proof, found.retention) == (None, None)
    assert len(found.examples) == 10
    assert all(answer.relevant is None for example in found.examples for answer in example.served)
    assert "No judged queries" in (other.folder / "report.md").read_text()
    told = [line.strip() for line in capsys.readouterr().err.splitlines() if "GOAL" in line]
    assert told == [goal.describe() for goal in found.goals] != []


def test_dev_stands_in_for_test(job, tmp_path, undrawn):
    other = with_data(job, tmp_path, splits=("train", "dev"))
    evaluate.run(other)
    assert read(other).proof.split == "dev"
    for name in ("report.md", "model_card.md"):
        assert "dev queries, which chose the weights too" in (other.folder / name).read_text()


def test_graded_judgements_add_judged_only_figures(job, tmp_path, undrawn):
    other = with_data(job, tmp_path, splits=())
    queries = {"id": ["a", "b"], "text": ["apple bread", "zinc"], "split": ["test", "test"]}
    write_table(pa.table(queries), tmp_path / "prepare" / "queries.arrow")
    judgements = [("test", "a", 3, 2), ("test", "a", 4, 0), ("test", "b", 5, 0), ("test", "b", 6, 1)]
    rows = [dict(zip(QRELS.names, judgement, strict=True)) for judgement in judgements]
    write_table(pa.Table.from_pylist(rows, QRELS), tmp_path / "prepare" / "qrels.arrow")
    evaluate.run(other)
    found = read(other)
    spec = job.recipe.text.query
    vectors = towers.encode(towers.load_tower(job.inputs["train"] / "query_tower"), spec, queries["text"], 2)
    scores = vectors @ load_vectors(job.inputs["encode"]).T
    wrong = [scores[0, 4] > scores[0, 3], scores[1, 5] > scores[1, 6]]
    by_name = {system.name: system.judged_only for system in found.proof.systems}
    assert by_name["teacher"].estimate == pytest.approx(np.mean([1 / log2(3) if swapped else 1.0 for swapped in wrong]))
    assert by_name["served"] is None
    assert all(by_name[name] is not None for name in by_name if name != "served")


def test_documents_that_are_asked_for_by_documents_are_no_answers_to_themselves(job, tmp_path, undrawn):
    other = with_data(job, tmp_path, splits=())
    rows = range(0, ROWS, 3)
    texts = Prepared(other.inputs["prepare"]).tower_texts["text"].to_pylist()
    ids, queries = [f"d{row}" for row in rows], [texts[row] for row in rows]
    write_table(pa.table({"id": ids, "text": queries, "split": ["test"] * len(ids)}), tmp_path / "prepare" / "queries.arrow")
    judgements = [dict(zip(QRELS.names, ("test", f"d{row}", row + 1, 1), strict=True)) for row in rows]
    write_table(pa.Table.from_pylist(judgements, QRELS), tmp_path / "prepare" / "qrels.arrow")
    evaluate.run(other, baselines=False)
    found = read(other)
    tower = towers.load_tower(job.inputs["train"] / "query_tower")
    scores = towers.encode(tower, job.recipe.text.query, queries, 2) @ load_vectors(job.inputs["encode"]).T
    ranks = []
    for line, row in zip(scores, rows, strict=True):
        assert line.argmax() == row
        others = np.delete(line, row)
        ranks.append(1 + int(np.sum(others > line[row + 1])))
    assert ndcg_of(found, "teacher") == pytest.approx(np.mean([1 / log2(rank + 1) * (rank <= 10) for rank in ranks]))
    assert found.proof.with_own == len(ids)
    answers = [(example.query, answer) for example in found.examples for answer in (*example.teacher, *example.served)]
    assert all(texts[int(answer.id[1:])] != query for query, answer in answers)


def test_a_killed_run_goes_on_from_the_blocks_that_are_there(job, tmp_path, undrawn):
    other = with_data(job, tmp_path, splits=("train", "dev", "test"))
    (other.folder / "scratch").mkdir()
    backwards = load_vectors(job.inputs["encode"])[::-1]
    np.save(other.folder / "scratch" / "000000000.npy", backwards)
    evaluate.run(other)
    found = read(other)
    assert ndcg_of(found, "zero-shot") != ndcg_of(found, "teacher")
    assert not (other.folder / "scratch").exists()


def test_refinement_has_a_line_of_its_own(job, tmp_path, undrawn):
    refined, folder = make_student(tmp_path / "refine"), tmp_path / "evaluate"
    (refined / "training.json").write_text('{"summary": {"steps": 3}, "log": []}')
    folder.mkdir()
    evaluate.run(replace(job, inputs={**job.inputs, "refine": refined}, folder=folder), baselines=False)
    found = Findings.model_validate_json((folder / "report.json").read_bytes())
    systems = [system.name for system in found.proof.systems]
    assert systems == ["teacher", "student-distilled", "student", "student-fp32", "student-int8", "served"]
    assert [(loss.step, loss.before, loss.after) for loss in found.proof.losses[:2]] == [
        ("distillation", "teacher", "student-distilled"),
        ("refinement", "student-distilled", "student"),
    ]
