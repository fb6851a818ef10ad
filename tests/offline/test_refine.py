import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_models import WIDTH, make_tiny_bert
from tiny_training import make_job, run, vectors_of
from tiny_work import assemble, make_prepared

from offline import exam, refine, shortlists
from offline.config import RefineConfig
from offline.data.prepared import TEXTS, Prepared, write_table
from offline.encoded import load_vectors
from offline.errors import DimensionError, StageError, TrainingError
from offline.ranking import exact_top_k
from offline.recipe import Recipe
from offline.refine import choose_texts, was_refined
from offline.stages import Source
from offline.towers import encode, load_tower, save_tower
from offline.walk import Walk
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=32)
OFF = {"kl_weight": 0, "contrastive_weight": 0, "pseudo_weight": 0, "invariance_weight": 0}


def shake(folder):
    """Add noise to every weight, half as large as the weights are."""
    tower = load_tower(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.add_(0.5 * torch.randn_like(weight) * weight.abs().mean())
    save_tower(tower, folder, SPEC)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of prepare, train, distill and encode: an untrained teacher, and a student that is one of its layers, shaken."""
    work = tmp_path_factory.mktemp("base")
    make_job(work, "refine")
    run(work, "train", train={"epochs": 0})
    run(work, "distill", distill={"layers": [1], "epochs": 0})
    shake(work / "distill" / "student")
    run(work, "encode")
    return work


@pytest.fixture
def work(base, tmp_path):
    """The same folders, to write refine beside; what is linked is not written to."""
    for name in ("prepare", "train", "distill", "encode", "bert"):
        (tmp_path / name).symlink_to(base / name)
    return tmp_path


def student(work):
    return work / "refine" / "student"


def agreement(work, tower) -> float:
    """Share of the teacher's ten best documents among the tower's, over all texts."""
    texts, documents = Prepared(work / "prepare").texts["text"].to_pylist(), load_vectors(work / "encode")
    found = [exact_top_k(encode(load_tower(path), SPEC, texts), documents, 10)[1] for path in (tower, work / "train/query_tower")]
    return float(np.mean([len(set(ours) & set(best)) / 10 for ours, best in zip(*found, strict=True)]))


def test_the_refined_student_ranks_more_like_the_teacher(work):
    summary = run(work, "refine", refine={**OFF, "kl_weight": 1.0, "epochs": 6, "learning_rate": 3e-3})
    assert agreement(work, student(work)) > agreement(work, work / "distill" / "student") + 0.05
    assert summary["steps"] > 0
    measured = "nDCG@10 on dev and agreement@10 with the teacher"
    assert summary[f"{measured}, refined"] > summary[f"{measured}, distilled"]
    assert was_refined(work / "refine")
    assert sorted(path.name for path in (work / "refine").iterdir()) == ["student", "training.json"]


@pytest.mark.parametrize("term", ["contrastive_weight", "pseudo_weight", "invariance_weight"])
def test_each_term_can_be_the_only_one(work, term, monkeypatch):
    monkeypatch.setattr(exam, "LEAST_JUDGED", 20)
    settings = {**OFF, term: 1.0, "measurements": 1, "alignment_weight": 0.0, "pseudo_confidence": 0.0}
    summary = run(work, "refine", refine={"epochs": 2, **settings})
    log = json.loads((work / "refine" / "training.json").read_text())["log"]
    assert summary["labelled"] == {"contrastive_weight": 20, "pseudo_weight": 20}.get(term, 0)
    assert sum(entry["loss"] for entry in log) > 0


def test_queries_of_one_text_share_their_documents(work, base):
    (work / "prepare").unlink()
    shutil.copytree(base / "prepare", work / "prepare")
    prepared = Prepared(work / "prepare")
    queries, qrels = prepared.queries.to_pydict(), prepared.qrels.to_pydict()
    first, second = [place for place, split in enumerate(queries["split"]) if split == "train"][:2]
    queries["text"][second] = queries["text"][first]
    write_table(pa.table(queries, schema=prepared.queries.schema), work / "prepare" / "queries.arrow")
    lesson = SimpleNamespace(texts={queries["text"][first]: ""}, shortlists=SimpleNamespace(confidence=lambda *_: np.zeros(1)))
    labels, _ = refine.label(lesson, make_job(work, "refine"))
    ids = {queries["id"][first], queries["id"][second]}
    assert labels[0].tolist() == sorted(row for row, query in zip(qrels["row"], qrels["query_id"], strict=True) if query in ids)
    assert len(labels[0]) == 2


@pytest.mark.parametrize("settings", [{"epochs": 0}, {**OFF, "epochs": 3}])
def test_switched_off_it_hands_on_the_distilled_student(work, settings):
    summary = run(work, "refine", refine=settings)
    given = work / "distill" / "student"
    names = sorted(path.relative_to(given) for path in given.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(student(work)) for path in student(work).rglob("*") if path.is_file())
    assert all((given / name).stat().st_ino == (student(work) / name).stat().st_ino for name in names)
    assert summary == {"steps": 0, "why": "switched off in the recipe"}
    assert not was_refined(work / "refine")


def test_weights_that_are_worse_on_held_out_queries_are_not_handed_on(work, monkeypatch):
    measured = iter([0.5, 0.4, 0.5, 0.3, 0.2])
    monkeypatch.setattr(exam.Exam, "measure", lambda *_: next(measured))
    summary = run(work, "refine", refine={"measurements": 4})
    assert (summary["steps"], summary["why"]) == (0, "nDCG@10 on dev and agreement@10 with the teacher is best as distilled")
    assert np.array_equal(vectors_of(student(work)), vectors_of(work / "distill" / "student"))


def test_the_best_weights_are_handed_on_and_not_the_last(work, monkeypatch):
    seen, values = [], iter([0.5, 0.4, 0.6, 0.3, 0.2])
    monkeypatch.setattr(exam, "LEAST_JUDGED", 20)

    def measure(_, tower, spec, search):
        seen.append(encode(tower, SPEC, ["one two three", "four", "five six seven eight"]))
        return next(values)

    monkeypatch.setattr(exam.Exam, "measure", measure)
    summary = run(work, "refine", refine={"measurements": 4, "epochs": 2})
    assert summary["steps"] == 6
    np.testing.assert_allclose(vectors_of(student(work)), seen[2], atol=1e-6)


def test_a_gain_on_few_queries_must_be_outside_its_interval(work, monkeypatch):
    measured = iter([0.5, 0.6, 0.5, 0.5, 0.5])
    monkeypatch.setattr(exam.Exam, "measure", lambda *_: next(measured))
    gains = iter([np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])])
    monkeypatch.setattr(exam.Exam, "values", lambda *_: next(gains))
    summary = run(work, "refine", refine={"measurements": 4})
    assert summary["steps"] == 0
    assert summary["why"].startswith("4 held-out queries are few")
    assert np.array_equal(vectors_of(student(work)), vectors_of(work / "distill" / "student"))


def test_enough_dev_judgements_are_what_is_measured(work, monkeypatch):
    monkeypatch.setattr(exam, "LEAST_JUDGED", 20)
    summary = run(work, "refine", refine={"epochs": 1})
    assert summary["nDCG@10 on dev, refined"] >= summary["nDCG@10 on dev, distilled"]
    assert summary["texts"] == 40, "dev queries are not learnt on"


def test_without_a_dev_split_some_judged_train_queries_are_held_out(work, monkeypatch):
    monkeypatch.setattr(exam, "LEAST_JUDGED", 21)
    monkeypatch.setattr(exam, "share_of", lambda count: 21 if count == 60 else 0)
    (work / "prepare").unlink()
    make_prepared(work / "prepare", splits=("train",))
    summary = run(work, "refine", refine={"epochs": 1, "measurements": 1, "contrastive_weight": 1.0})
    assert summary["nDCG@10 on train, refined"] >= summary["nDCG@10 on train, distilled"]
    assert (summary["texts"], summary["labelled"]) == (39, 39)


def test_without_labels_contrast_alone_hands_on_the_distilled_student(work):
    (work / "prepare").unlink()
    make_prepared(work / "prepare", splits=("test",))
    summary = run(work, "refine", refine={**OFF, "contrastive_weight": 1.0})
    assert summary["steps"] == 0
    assert summary["why"].startswith("there are no training judgements")
    assert np.array_equal(vectors_of(student(work)), vectors_of(work / "distill" / "student"))


def test_teacher_and_search_are_asked_once_for_each_text(work, monkeypatch):
    monkeypatch.setattr(shortlists, "_SHARD_TEXTS", 25)
    asked = []
    real = shortlists.towers.encode

    def interrupted(tower, spec, texts, **options):
        if options and len(asked) == 2:
            asked.append("interrupted")
            raise KeyboardInterrupt
        if options:
            asked.append(len(texts))
        return real(tower, spec, texts, **options)

    monkeypatch.setattr(shortlists.towers, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(work, "refine")
    run(work, "refine")
    assert asked == [25, 25, "interrupted", 10]


def test_real_queries_and_texts_of_documents_have_limits_of_their_own(tmp_path):
    entries = [*((f"mined {i}", "title") for i in range(9)), *((f"asked {i}", "train") for i in range(9)), ("logged", "log")]
    table = {"text": [text for text, _ in entries], "source": [source for _, source in entries]}
    write_table(TEXTS.empty_table().from_pydict(table, schema=TEXTS), tmp_path / "texts.arrow")
    real, mined = choose_texts(Prepared(tmp_path), TextSpec(template="q: {text}"), RefineConfig(max_queries=10, max_mined=3))
    assert len(real) == 10
    assert len(mined) == 3
    assert real["q: logged"] == "logged"
    assert all(text == f"q: {raw}" and raw.startswith("mined") for text, raw in mined.items())


def test_without_texts_there_is_a_remedy(work):
    (work / "prepare").unlink()
    make_prepared(work / "prepare")
    write_table(TEXTS.empty_table(), work / "prepare" / "texts.arrow")
    with pytest.raises(TrainingError, match=r"0 texts to refine on; .*refine\.epochs = 0"):
        run(work, "refine")


def test_a_student_of_another_width_is_refused(work):
    (work / "distill").unlink()
    save_tower(assemble(make_tiny_bert(work / "wide", width=2 * WIDTH), "mean"), work / "distill" / "student", SPEC)
    with pytest.raises(DimensionError, match=rf"{2 * WIDTH} dimensions, the documents' have {WIDTH}; run the stage distill"):
        run(work, "refine")


def test_out_of_order_it_names_the_stage_to_run_first(tmp_path, beir_folder):
    walk = Walk(Recipe(name="toy"), Source(data=beir_folder()), tmp_path / "work")
    walk.run("prepare")
    with pytest.raises(StageError, match=r"refine needs the output of train, .* run the stage train first"):
        walk.run("refine")


def test_weights_follow_from_the_seed(work):
    run(work, "refine", refine={"invariance_weight": 1.0})
    first = vectors_of(student(work))
    (work / "refine").rename(work / "first")
    run(work, "refine", refine={"invariance_weight": 1.0})
    np.testing.assert_allclose(vectors_of(student(work)), first, atol=1e-6)
