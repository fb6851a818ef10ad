"""MTEB gives the figures that ir-measures does, through towers that differ by side."""

import numpy as np
import pyarrow as pa
import pytest
from tiny_walk import finish
from tiny_work import make_prepared, make_student, make_towers

pytest.importorskip("mteb", exc_type=ImportError)

from offline import towers
from offline.data.prepared import Prepared, write_table
from offline.errors import DataError, StageError
from offline.judged import judged_split
from offline.metrics import NDCG, score
from offline.mteb_model import Towers, evaluate
from offline.ranking import exact_top_k
from offline.recipe import Recipe
from snapshot.text import render, render_query

pytestmark = pytest.mark.filterwarnings("ignore")  # of mteb's and its dependencies' own


def make_both(work):
    finish(make_towers(work / "train"))
    finish(make_student(work / "distill"))


def test_graded_judgements_are_told_to_count_otherwise(tmp_path, capsys):
    folder = make_prepared(tmp_path / "prepare")
    make_both(tmp_path)
    recipe = Recipe(name="toy")
    evaluate(Towers.load(tmp_path, recipe), Prepared(folder), recipe, "test")
    assert "linear gain" not in capsys.readouterr().err
    qrels = Prepared(folder).qrels
    write_table(qrels.set_column(3, "score", pa.array([2] * len(qrels), qrels["score"].type)), folder / "qrels.arrow")
    evaluate(Towers.load(tmp_path, recipe), Prepared(folder), recipe, "test")
    assert "MTEB's nDCG has linear gain, the report's 2^score - 1" in capsys.readouterr().err


def test_mteb_measures_both_sides(tmp_path):
    prepared, recipe = Prepared(make_prepared(tmp_path / "prepare")), Recipe(name="toy")
    make_both(tmp_path)
    model = Towers.load(tmp_path, recipe)
    found = evaluate(model, prepared, recipe, "test")
    judged, text = judged_split(prepared, recipe, "test"), recipe.text
    student, document = (towers.load_tower(tmp_path / name) for name in ("distill/student", "train/document_tower"))
    queries = towers.encode(student, text.query, [render_query(text.query, query) for query in judged.texts])
    documents = towers.encode(document, text.document, [render(text.document, row) for row in prepared.tower_texts.to_pylist()])
    ours = score(judged, exact_top_k(queries, documents, 60)[1])
    assert found["ndcg_at_10"] == pytest.approx(float(np.mean(ours[NDCG])), abs=1e-4)


def test_the_teacher_can_be_asked_for(tmp_path):
    make_both(tmp_path)
    layers = [
        towers.backbone_of(Towers.load(tmp_path, Recipe(name="toy"), student=student).query).config.num_hidden_layers
        for student in (True, False)
    ]
    assert layers == [1, 3]


def test_a_split_without_judgements_is_refused(tmp_path):
    prepared, recipe = Prepared(make_prepared(tmp_path / "prepare", splits=("train",))), Recipe(name="toy")
    make_both(tmp_path)
    with pytest.raises(DataError, match="no judged query with a relevant document in test"):
        evaluate(Towers.load(tmp_path, recipe), prepared, recipe, "test")


def test_without_a_student_the_teacher_is_not_measured_in_its_place(tmp_path):
    with pytest.raises(StageError, match="there is no teacher; run the stage train"):
        Towers.load(tmp_path, Recipe(name="toy"), student=False)
    finish(make_towers(tmp_path / "train"))
    make_student(tmp_path / "distill")  # as a kill leaves it
    with pytest.raises(StageError, match="there is no student; run the stage distill"):
        Towers.load(tmp_path, Recipe(name="toy"))


@pytest.mark.parametrize("name", ["distill/student/model.safetensors", "train/document_tower/tokenizer.json"])
def test_a_tower_s_file_that_is_another_is_refused_by_name(tmp_path, name):
    make_both(tmp_path)
    path, stage = tmp_path / name, name.partition("/")[0]
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StageError, match=f"{name}: not the file that the stage {stage} wrote; .* remove .*{stage} and make it"):
        Towers.load(tmp_path, Recipe(name="toy"))
