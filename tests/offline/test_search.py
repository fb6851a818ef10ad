"""The search over a finished tiny work folder; every graph is one that was traced once, the clock is made up."""

import json
import shlex
from pathlib import Path

import onnx
import pytest
from tiny_models import make_tiny_bert
from tiny_training import make_recipe
from tiny_work import make_prepared, trace_student

from offline import search, train
from offline.encode import STAGE as ENCODE
from offline.errors import RecipeError
from offline.recipe import Recipe, load_recipe
from offline.stages import INPUTS, RECEIPT, Source, run_stage
from offline.walk import Walk

CANDIDATES = [
    {"student": "static", "mixers": 0},
    {"layers": [0]},
    {"layers": [0, 2]},
    {"student": "narrow", "layers": [1], "width": 64},
]
SPEED = {"teacher": 9.0, "static-mixers0": 0.1, "layers-0": 1.0, "layers-0-2": 2.0}


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """Finished prepare, train and encode; candidates learn two batches."""
    make_prepared(tmp_path / "prepare")
    (tmp_path / "prepare" / INPUTS).write_text("{}")
    (tmp_path / "prepare" / RECEIPT).write_text('{"outputs": {}}')
    backbone = make_tiny_bert(tmp_path / "bert")
    settings = {"candidates": CANDIDATES, "first_texts": 16, "rounds": 2}
    base = make_recipe(backbone, train={"epochs": 0}).model_dump(exclude_unset=True)
    recipe = Recipe.model_validate({**base, "search": settings})
    run_stage(train.STAGE, tmp_path, recipe, Source())
    run_stage(ENCODE, tmp_path, recipe, Source())
    monkeypatch.setattr(search, "to_onnx", lambda _: onnx.load_from_string(trace_student()))
    monkeypatch.setattr(search, "measure", lambda graphs, _: {name: SPEED[name.rpartition(".")[0]] for name in graphs})
    return Walk(recipe, Source(), tmp_path)


def test_the_best_within_the_budget_is_found_and_written_down(walk, capsys):
    found = search.search(walk, budget_ms=1.5)
    assert {trial.name for trial in found.trials} == {"static-mixers0", "layers-0", "layers-0-2"}
    assert "narrow-1-width64 is left out: distill.width is 64" in capsys.readouterr().err
    assert found.best in ("static-mixers0", "layers-0")
    assert found.teacher_ms == 9.0
    assert sorted(trial.texts for trial in found.trials) == [16, 32, 32]
    assert all(0 <= trial.retained <= 1.5 for trial in found.trials)
    written = json.loads((walk.work / "search" / "search.json").read_text())
    assert written["best"] == found.best
    assert (walk.work / "search" / "search.md").is_file()
    assert (walk.work / "search" / "front.png").is_file()


def test_where_nothing_is_within_the_budget_nobody_is_trained(walk, monkeypatch):
    search.search(walk, budget_ms=1.5)
    assert (walk.work / "search" / "front.png").is_file()
    monkeypatch.setattr(search, "_train", lambda *_, **__: pytest.fail("trained"))
    found = search.search(walk, budget_ms=0.05)
    assert (found.best, found.trials) == (None, ())
    said = search.closing(found, walk, Path("tiny.toml"), ())
    assert "No student takes at most 0.05 ms, so none was trained: the fastest, static-mixers0, takes 0.100 ms" in said
    assert "static-mixers0, takes 0.100 ms" in (walk.work / "search" / "search.md").read_text()
    assert not (walk.work / "search" / "front.png").exists(), "that of another budget"


def test_what_is_retained_says_of_what_it_is(walk):
    found = search.search(walk, budget_ms=1.5)
    assert found.quality == "nDCG@10 on 60 training queries"
    assert "the teacher's nDCG@10 on 60 training queries" in (walk.work / "search" / "search.md").read_text()


def test_the_next_command_is_whole(walk):
    found = search.search(walk, budget_ms=1.5)
    source = Source(data=Path("my data"), query_log=Path("log.txt"), registry=Path("elsewhere"))
    said = search.closing(found, Walk(walk.recipe, source, walk.work), Path("my tiny.toml"), ("train.epochs=0",))
    command = shlex.split(said.partition("Next: ")[2])
    assert command[:5] == ["python", "-m", "offline", "run", "my tiny.toml"]
    options = list(zip(command[5::2], command[6::2], strict=True))
    assert options[:5] == [
        ("--data", "my data"),
        ("--query-log", "log.txt"),
        ("--out", str(walk.work)),
        ("--registry", "elsewhere"),
        ("--set", "train.epochs=0"),
    ]
    assert options[5][1].startswith("distill={")
    plain = search.closing(found, Walk(walk.recipe, Source(), Path("work/tiny")), Path("tiny.toml"), ())
    assert "run tiny.toml --set" in plain


def test_a_search_that_was_stopped_trains_nobody_twice(walk, monkeypatch):
    learnt, learn = [], search.distill.learn

    def interrupted(job, *arguments):
        if len(learnt) == 2:
            learnt.append("stopped")
            raise KeyboardInterrupt
        learnt.append(job.folder.name)
        return learn(job, *arguments)

    monkeypatch.setattr(search.distill, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search.search(walk, budget_ms=1.5)
    first = search.search(walk, budget_ms=1.5)
    assert len(learnt) == len(set(learnt)) == 6  # three candidates, two of them twice as long, and the stop
    assert search.search(walk, budget_ms=1.5) == first
    assert len(learnt) == 6


def test_the_best_is_told_as_options_that_make_the_recipe_so(walk):
    found = search.search(walk, budget_ms=0.5)
    changed = search.with_best(walk.recipe, found)
    assert changed.distill.student == "static"
    (option,) = search.overrides(changed, walk.recipe)
    path = walk.work / "narrow.toml"
    path.write_text('name = "tiny"\n[distill]\nstudent = "narrow"\nwidth = 8\n')
    assert load_recipe(path, [option]).distill == changed.distill, "whatever the recipe sets that the best has not"
    assert search.overrides(changed, changed) == []


def test_candidates_come_from_the_teachers_size_unless_the_recipe_names_them():
    names = list(search.candidates(Recipe(name="tiny"), depth=6, width=384))
    assert names[:5] == ["static-mixers0", "static-mixers1", "layers-0", "layers-0-5", "layers-0-2-5"]
    assert "narrow-0-5-ffn768" in names
    assert len(search.candidates(Recipe(name="tiny"), depth=1, width=8)) < len(names)


@pytest.mark.parametrize(
    ("distill", "changes", "kind"),
    [
        ({"layers": [0, 5], "epochs": 2.0}, {"backbone": "another"}, "backbone"),
        ({"student": "narrow", "layers": [0, 5], "width": 8, "epochs": 2.0}, {"backbone": "another"}, "backbone"),
        ({"backbone": "another", "epochs": 2.0}, {"layers": [0]}, "layers"),
        ({"student": "narrow", "layers": [0, 5], "width": 8, "epochs": 2.0}, {"layers": [0]}, "narrow"),
    ],
)
def test_a_candidate_of_another_kind_takes_over_what_is_of_no_kind(distill, changes, kind):
    recipe = Recipe.model_validate({"name": "tiny", "distill": distill, "search": {"candidates": [changes]}})
    (made,) = search.candidates(recipe, 6, 384).values()
    assert (made.distill.student, made.distill.epochs) == (kind, 2.0)
    assert (made.distill.backbone is None) == (kind != "backbone")


def test_a_candidate_that_is_no_student_is_told_by_place():
    recipe = Recipe.model_validate({"name": "tiny", "search": {"candidates": [{"layers": [0]}, {"depth": 3}]}})
    with pytest.raises(RecipeError, match=r"search\.candidates\.1\.depth: Extra inputs"):
        search.candidates(recipe, 6, 384)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 2}, "search.candidates.0.layers: Input should be a valid tuple"),
        ({"student": "narrow", "layers": [0]}, "search.candidates.0: a narrow student needs width or ffn"),
        ({"student": "static", "width": 3}, "search.candidates.0: width and ffn are those of a narrow student"),
        ({"student": "backbone"}, "search.candidates.0: give either layers"),
        ({"layers": [0], "mse_weight": 0.0, "cosine_weight": 0.0}, "search.candidates.0: mse_weight and cosine_weight are both"),
    ],
)
def test_a_candidate_that_no_recipe_could_say_is_refused_by_its_place(changes, message):
    recipe = Recipe.model_validate({"name": "tiny", "search": {"candidates": [changes]}})
    with pytest.raises(RecipeError) as caught:
        search.candidates(recipe, depth=6, width=384)
    assert message in str(caught.value)


def test_where_no_candidate_can_be_built_no_larger_budget_is_asked_for(walk):
    recipe = walk.recipe.model_copy(update={"search": walk.recipe.search.model_copy(update={"candidates": ({"layers": [7]},)})})
    found = search.search(Walk(recipe, walk.source, walk.work), budget_ms=1.5)
    said = search.closing(found, walk, Path("tiny.toml"), ())
    assert "name others in search.candidates" in said
    assert "--budget-ms" not in said
