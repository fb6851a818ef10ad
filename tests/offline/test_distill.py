import hashlib

import numpy as np
import pyarrow as pa
import pytest
from tiny_models import LAYERS, WIDTH, make_tiny_bert
from tiny_training import make_job, run, vectors_of

from offline import distill, lessons
from offline.config import DistillConfig
from offline.data.prepared import TEXTS, Prepared, write_table
from offline.errors import DimensionError, RecipeError, TrainingError
from offline.towers import build_tower, encode, load_tower, save_tower, tower_dim
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=32)


@pytest.fixture
def work(tmp_path):
    """Folders of prepare and of train, the latter with an untrained teacher."""
    make_job(tmp_path, "distill")
    run(tmp_path, "train", train={"epochs": 0})
    return tmp_path


def agreement(work) -> float:
    """Mean cosine between student and teacher over the texts."""
    texts = Prepared(work / "prepare").texts["text"].to_pylist()
    student = encode(load_tower(work / "distill" / "student"), SPEC, texts)
    teacher = encode(load_tower(work / "train" / "query_tower"), SPEC, texts)
    return float(np.mean(np.sum(student * teacher, axis=1)))


def write_texts(work, *texts: tuple[str, str]) -> Prepared:
    columns = list(zip(*texts, strict=True)) or [(), ()]
    table = pa.table([pa.array(column, pa.string()) for column in columns], schema=TEXTS)
    write_table(table, work / "prepare" / "texts.arrow")
    return Prepared(work / "prepare")


def test_the_student_comes_close_to_the_teacher(work):
    run(work, "distill", distill={"epochs": 0})
    before = agreement(work)
    (work / "distill" / "training.json").unlink()
    summary = run(work, "distill", distill={"epochs": 10, "learning_rate": 3e-3})
    assert agreement(work) > max(before, 0.98)
    assert summary["dev_cosine"] > 0.95
    assert summary["texts"] == 60
    assert summary["parameters"] < summary["parameters_teacher"]


def test_the_student_has_the_layers_asked_for(work):
    run(work, "distill", distill={"layers": [1], "epochs": 0})
    student = dict(load_tower(work / "distill" / "student").named_parameters())
    teacher = dict(load_tower(work / "train" / "query_tower").named_parameters())
    assert sum(".layer.0." in name for name in student) == sum(".layer.1." in name for name in teacher)
    for name, parameter in student.items():
        assert np.array_equal(parameter.detach().numpy(), teacher[name.replace(".layer.0.", ".layer.1.")].detach().numpy())


def test_another_backbone_is_projected_to_the_documents_width(work):
    narrow = make_tiny_bert(work / "narrow", width=WIDTH // 2, seed=5)
    run(work, "distill", distill={"layers": None, "backbone": str(narrow), "epochs": 10, "learning_rate": 3e-3})
    student = load_tower(work / "distill" / "student")
    assert tower_dim(student) == WIDTH
    assert [type(module).__name__ for module in student] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert agreement(work) > 0.9


def test_the_document_tower_and_the_teacher_do_not_change(work):
    def hashes():
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (work / "train").rglob("*") if p.is_file()}

    before = hashes()
    run(work, "distill")
    assert hashes() == before


def test_real_queries_are_kept_first(work):
    mined = [(f"sentence {i}", "sentence") for i in range(50)]
    prepared = write_texts(work, *mined, ("asked", "train"), ("logged", "log"), ("Title", "title"))
    chosen, _ = lessons.choose_texts(prepared, SPEC, DistillConfig(max_texts=5))
    assert set(chosen[:2]) == {"asked", "logged"}
    assert len(chosen) == 5


def test_texts_are_rendered_and_equal_ones_kept_once(work):
    prepared = write_texts(work, ("Two  Words", "train"), ("two words", "log"), ("  ", "title"), ("three", "title"))
    spec = TextSpec(template="query: {text}", lowercase=True)
    assert sorted(lessons.choose_texts(prepared, spec, DistillConfig())[0]) == ["query:", "query: three", "query: two words"]


def test_held_out_texts_are_not_learnt_on():
    for count in (2, 250, 200_000):
        learnt, held_out = distill._split(count, seed=3)
        assert sorted([*learnt, *held_out]) == list(range(count))
        assert len(held_out) == min(500, max(1, count // 100))


def test_the_teacher_is_asked_once_for_each_text(work, monkeypatch):
    monkeypatch.setattr(lessons, "_SHARD_ROWS", 25)
    asked = []

    def interrupted(tower, spec, texts, **options):
        if len(asked) == 2:
            asked.append("interrupted")
            raise KeyboardInterrupt
        asked.append(len(texts))
        return encode(tower, spec, texts, **options)

    monkeypatch.setattr(lessons, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(work, "distill")
    run(work, "distill")
    assert asked == [25, 25, "interrupted", 10]
    assert not (work / "distill" / "teacher").exists()


def test_without_texts_there_is_a_remedy(work):
    write_texts(work)
    with pytest.raises(TrainingError, match=r"0 texts to distil on; .*--query-log"):
        run(work, "distill")


def test_a_teacher_without_the_layers_asked_for_is_told(work):
    with pytest.raises(RecipeError, match=rf"asks for layer 3 of a tower with {LAYERS} layers \(0 to {LAYERS - 1}\)"):
        run(work, "distill", distill={"layers": [0, 3]})


def test_layers_of_a_teacher_of_another_width_than_the_documents_are_refused(work):
    wide = build_tower(str(make_tiny_bert(work / "wide", width=2 * WIDTH)))
    save_tower(wide, work / "train" / "document_tower", SPEC)
    with pytest.raises(DimensionError, match=rf"{WIDTH} dimensions and the document tower's {2 * WIDTH}; give distill\.backbone"):
        run(work, "distill")


def test_vectors_follow_from_the_seed(work):
    run(work, "distill")
    first = vectors_of(work / "distill" / "student")
    (work / "distill" / "training.json").unlink()
    run(work, "distill")
    np.testing.assert_allclose(vectors_of(work / "distill" / "student"), first, atol=1e-6)
