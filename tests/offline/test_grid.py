"""Variants share stages; scaling and ablation over tiny towers, with oracles for what they compute."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import make_tiny_bert
from tiny_walk import make_corpus, write_data

from offline import ablate, exam, laws, plots_grid, refine, scaling, shrink, towers, train
from offline.ablate import load_grid
from offline.config import EvaluateConfig
from offline.data.prepared import Prepared
from offline.errors import BackboneError, DataError, RecipeError
from offline.grid import Grid
from offline.judged import Judged
from offline.power_law import PowerLaw
from offline.recipe import Recipe
from offline.scaling import Point, contrastive_entropy
from offline.stages import Source

RECIPE = """
name = "tiny"
[text.query]
max_tokens = 16
[text.document]
template = "{{title}}. {{text}}"
max_tokens = 32
[train]
backbone = "{backbone}"
epochs = 1
batch_size = 8
[distill]
layers = [0, 2]
epochs = 1
[evaluate]
bootstrap = 20
[scaling]
widths = [4, 8, 12, 16, 32]
split = "test"
negatives = 5
max_documents = 40
epochs = 1
bootstrap = 5
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    write_data(root / "data", make_corpus())
    (root / "tiny.toml").write_text(RECIPE.format(backbone=make_tiny_bert(root / "bert")))
    return root


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(plots_grid, "save", lambda figure, path: None)


def make_grid(home, name, *donors):
    return Grid(home / "tiny.toml", (), Source(data=home / "data"), home / name, donors)


def test_what_two_variants_share_is_run_once(home, monkeypatch):
    grid = make_grid(home, "shared")
    first, second = grid.variant("first"), grid.variant("second", ["distill.epochs=0"])
    for stage in ("prepare", "train"):
        first.run(stage)
    monkeypatch.setattr(train, "learn", lambda *_: pytest.fail("trained again"))
    for stage in ("prepare", "train"):
        assert second.run(stage).reused
    ours, theirs = (variant.work / "train" / "query_tower" / "modules.json" for variant in (first, second))
    assert ours.samefile(theirs)
    own = [variant.work / "train" / "inputs.json" for variant in (first, second)]
    assert not own[0].samefile(own[1])
    assert own[0].read_text() == own[1].read_text()


def test_another_training_is_not_shared(home):
    grid = make_grid(home, "unshared")
    for name, overrides in (("first", []), ("second", ["train.epochs=0"])):
        for stage in ("prepare", "train"):
            outcome = grid.variant(name, overrides).run(stage)
        assert not outcome.reused


def test_a_table_of_rows_against_the_default(home, undrawn):
    grid = make_grid(home, "ablate")
    chosen = load_grid(ablate.GRID, ["mse", "teacher"])
    report = ablate.ablate(grid, chosen, "test")
    assert [found.row.name for found in report.rows] == ["default", "teacher", "mse"]
    assert (report.split, report.queries) == ("test", 15)
    assert report.rows[0].difference.estimate == 0.0
    assert [found.layers for found in report.rows] == [2, 3, 2]
    for found in report.rows:
        assert found.difference.estimate == pytest.approx(found.ndcg.estimate - report.rows[0].ndcg.estimate)
    page = (grid.folder / "report" / "ablation.md").read_text()
    assert "| mse | squared error alone | 2 |" in page
    trained = {(grid.folder / row.name / "train" / "query_tower" / "modules.json").stat().st_ino for row in chosen.rows}
    assert len(trained) == 1
    (goal,) = report.goals
    assert (goal.name, goal.figure) == ("default_over_mse_unbeaten", pytest.approx(-report.rows[2].difference.low))
    assert goal.describe() in page


def test_a_row_that_does_not_fit_the_backbone_is_told_before_anything_runs(home):
    grid = make_grid(home, "unfit")
    with pytest.raises(RecipeError, match=r"row layers-2: distill.layers asks for layer 5 .* with --rows"):
        ablate.ablate(grid, load_grid(ablate.GRID, ["layers-2"]), "dev")
    assert not grid.folder.exists()


def test_rows_of_other_queries_are_not_compared(home, tmp_path):
    path = tmp_path / "grid.toml"
    rows = [("default", ""), ("few", 'set = ["data.max_documents=20"]')]
    path.write_text("\n".join(f'[[row]]\nname = "{name}"\ngroup = "g"\nabout = "x"\n{change}' for name, change in rows))
    grid = make_grid(home, "others")
    with pytest.raises(RecipeError, match=r"row 'few' is measured on other queries than the default"):
        ablate.ablate(grid, load_grid(path), "test")


def test_on_dev_rows_are_measured_by_queries_that_did_not_choose(home, undrawn, monkeypatch):
    write_data(home / "with-dev", make_corpus(), judged=60)
    (home / "with-dev" / "qrels" / "test.tsv").rename(home / "with-dev" / "qrels" / "dev.tsv")
    asked = []
    choose = exam.judged_queries
    monkeypatch.setattr(refine, "judged_queries", lambda *given: asked.append(choose(*given)) or asked[-1])
    grid = Grid(home / "tiny.toml", (), Source(data=home / "with-dev"), home / "apart")
    report = ablate.ablate(grid, load_grid(ablate.GRID, ["mse"]), "dev")
    measured = ablate._judged(Prepared(grid.folder / "mse" / "prepare"), grid.variant("mse").recipe, "dev")
    assert (report.split, report.queries, len(measured)) == ("dev", 15, 15)
    assert len(asked) == 2
    assert all(len(chosen) == 15 and not set(chosen.ids) & set(measured.ids) for chosen in asked)
    assert "the half of dev by which refinement chose no weights" in (grid.folder / "report" / "ablation.md").read_text()
    unrefined = dataclasses.replace(grid, overrides=("refine.epochs=0",))
    page = ablate.page(ablate.ablate(unrefined, load_grid(ablate.GRID, ["teacher"]), "dev"))
    assert "half of dev, the same that rows with refinement are measured on; no row here is refined. Stage 1" in page


def test_without_dev_queries_rows_are_measured_on_test_and_that_is_said(home, undrawn, capsys):
    grid = make_grid(home, "no-dev")
    report = ablate.ablate(grid, load_grid(ablate.GRID, ["mse"]), "dev")
    assert report.split == "test"
    assert "too few judged dev queries (0): the 15 of test are measured on" in capsys.readouterr().err
    page = (grid.folder / "report" / "ablation.md").read_text()
    assert "has no test queries left. Not what was asked for: too few judged dev queries (0): the 15 of test are" in page
    assert "half_of_dev" not in str(grid.variant("mse").recipe.model_dump(exclude_defaults=True))


def test_where_dev_has_few_queries_more_of_test_are_measured_on(home, monkeypatch):
    write_data(home / "few-dev", make_corpus(), judged=60)
    rows = "".join(f"q-d{number}\td{number}\t1\n" for number in range(1, 19, 2))
    (home / "few-dev" / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    variant = Grid(home / "tiny.toml", (), Source(data=home / "few-dev"), home / "few").variant("default")
    assert ablate._split_there(variant, "dev") == (
        "test",
        "too few judged dev queries (4): the 30 of test are measured on",
    )
    monkeypatch.setattr(ablate, "LEAST_JUDGED", 1)
    assert ablate._split_there(variant, "dev") == ("dev", None)


def test_where_test_has_few_queries_those_of_dev_that_are_taken_are_told(home, capsys):
    data = write_data(home / "few-test", make_corpus(), judged=60)
    (data / "qrels" / "test.tsv").rename(data / "qrels" / "dev.tsv")
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq-d1\td1\t1\n")
    variant = Grid(home / "tiny.toml", (), Source(data=data), home / "few-of-test").variant("default")
    moved = "too few judged test queries (1): the 15 of dev are measured on"
    assert ablate._split_there(variant, "test") == ("dev", moved)
    assert f"warning: {moved}" in capsys.readouterr().err


def test_without_any_judged_queries_it_is_told_before_training(home, monkeypatch):
    monkeypatch.setattr(train, "learn", lambda *_: pytest.fail("trained"))
    write_data(home / "unjudged", make_corpus(), judged=60)
    (home / "unjudged" / "qrels" / "test.tsv").unlink()
    source = Source(data=home / "unjudged")
    with pytest.raises(DataError, match="neither dev nor test has judged queries"):
        ablate.ablate(Grid(home / "tiny.toml", (), source, home / "no-judged"), load_grid(ablate.GRID, ["mse"]), "dev")
    with pytest.raises(DataError, match="neither dev nor test has a judged query"):
        scaling.plan(Grid(home / "tiny.toml", (), source, home / "no-judged-sizes"))


def test_goals_compare_rows_by_query(home):
    goals = [
        ablate.Lead(name="better", row="a", over="b"),
        ablate.Lead(name="unbeaten", row="b", over="a", unbeaten=True),
        ablate.Lead(name="later", row="a", over="c"),
    ]
    noise = np.random.default_rng(0).normal(size=100)
    found = {goal.name: goal for goal in ablate._judge({"a": noise + 0.2, "b": noise}, goals, EvaluateConfig(bootstrap=20))}
    assert found.keys() == {"better", "unbeaten"}
    assert found["better"].figure == pytest.approx(0.2)
    assert not found["unbeaten"].is_met
    assert found["better"].is_met
    few = ablate._judge({"a": noise[:9] + 0.2, "b": noise[:9]}, goals, EvaluateConfig(bootstrap=20))
    assert next(few).describe().endswith("short (of 9 judged queries; 100 are the least)")


def test_the_grid_s_own_goals_name_its_rows():
    names = {goal.name for goal in load_grid(ablate.GRID).goals}
    assert "two_stage_over_end_to_end_2_low" in names
    assert load_grid(ablate.GRID, ["mse"]).goals[0].name == "default_over_mse_unbeaten"


def test_every_row_of_a_group_is_another_recipe(home):
    grid = make_grid(home, "any")
    recipes: dict[str, list[object]] = {}
    for row in load_grid(ablate.GRID).rows:
        recipe = grid.variant(row.name, row.set).recipe
        assert (recipe, row.query_tower) not in recipes.setdefault(row.group, []), row.name
        recipes[row.group].append((recipe, row.query_tower))


@pytest.mark.parametrize(
    ("content", "wanted", "said"),
    [
        ("x =", [], "not a grid"),
        ('[[row]]\nname = "default"\nabout = "x"', [], r"grid\.toml: row\.0\.group: Field required$"),
        ('[[row]]\nname = "a"\ngroup = "g"\nabout = "x"', [], "needs a row named default"),
        ('[[row]]\nname = "default"\ngroup = "g"\nabout = "x"\nsets = []', [], "sets"),
        ('[[row]]\nname = "default"\ngroup = "g"\nabout = "x"', ["mse"], "no row or group mse; there are default"),
        (
            '[[row]]\nname = "default"\ngroup = "g"\nabout = "x"\n[[goal]]\nname = "a"\nrow = "default"\nover = "b"',
            [],
            "names b, which is no row",
        ),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path, content, wanted, said):
    (tmp_path / "grid.toml").write_text(f"\ufeff{content}")  # as an editor of Windows leaves it
    with pytest.raises(RecipeError, match=said):
        load_grid(tmp_path / "grid.toml", wanted)


def test_contrastive_entropy_is_the_cross_entropy_of_a_softmax():
    positive, negatives = np.array([0.9, 0.1], np.float32), np.array([[0.5, 0.2], [0.8, 0.1]], np.float32)
    weights = np.exp(np.concatenate([positive[:, None], negatives], axis=1) / 0.1)
    expected = -np.log(weights[:, 0] / weights.sum(axis=1))
    assert contrastive_entropy(positive, negatives, 0.1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_scaling_trains_every_size_and_share(home, undrawn):
    grid = make_grid(home, "scaling")
    plan = scaling.plan(grid)
    points = scaling.measure_all(plan.sizes)
    assert [point.name for point in points] == ["size-0", "size-1", "size-2", "size-3", "size-4"]
    assert sorted(point.parameters for point in points) == [point.parameters for point in points]
    shares = scaling.measure_all(plan.shares)
    assert [point.pairs for point in shares] == [2, 4, 8, 15]
    assert shares[-1].name == "size-2"
    report = laws.write_report(plan.sizes[0].recipe, points, shares, scaling.report_folder(grid))
    assert report.laws[0].held.name == "size-4"
    assert {goal.name for goal in report.goals} == {"scaling_size_r2", "scaling_data_r2", "scaling_held_out_accuracy"}
    assert json.loads((grid.folder / "report" / "scaling.json").read_text())["queries"] == 15


def point(name, parameters, pairs, entropy, **more):
    noise = np.random.default_rng(0).normal(0, 0.2, 400)
    told = {"ndcg": np.full(400, 1 - entropy / 10), "negatives": 256, "learnt": True, **more}
    return Point(name, "test", parameters, pairs, entropy + noise - noise.mean(), **told)


def points_of(entropies):
    return [point(f"size-{i}", 10_000 * 2**i, 9, entropy) for i, entropy in enumerate(entropies)]


def report_of(folder, sizes, split="dev"):
    shares = [point(f"data-{x}", 9, x, LAW.at(np.array([x]))[0]) for x in (1e3, 4e3, 16e3, 64e3)]
    recipe = Recipe.model_validate({"name": "toy", "scaling": {"bootstrap": 20, "seed": 1, "split": split}})
    return laws.write_report(recipe, sizes, shares, folder)


SPREAD = np.linspace(-1, 1, 400)
LAW = PowerLaw(scale=0.5, unit=1e5, exponent=0.4, offset=1.5)


def test_the_law_s_report_finds_the_law_and_predicts_the_largest(tmp_path, undrawn):
    sizes = [point(f"size-{x}", x, 9, LAW.at(np.array([x]))[0]) for x in (1e4, 5e4, 2e5, 8e5, 3e6)]
    report = report_of(tmp_path, sizes, split="test")
    by_size, by_data = report.laws
    assert by_size.exponent.low <= 0.4 + 1e-3
    assert by_size.exponent.high >= 0.4 - 1e-3
    assert by_size.r_squared == pytest.approx(1.0, abs=1e-6)
    assert by_size.held.error < 0.001
    assert by_data.held is None
    assert all(goal.is_met for goal in report.goals)
    page = (tmp_path / "scaling.md").read_text()
    assert "GOAL scaling_size_r2 1.0000 0.95 ok" in page
    assert f"the size before it, {sizes[-2].entropy.mean():.4f}, is {by_size.held.naive_error:.1%} off" in page
    assert "on 400 test queries" in page


@pytest.mark.parametrize(
    ("entropies", "why"),
    [
        ((2.0, 2.2, 2.3, 2.35, 2.37), "entropy does not fall with N"),
        ((2.0, 2.0, 2.0, 2.0, 2.0), "no variation"),
        ((3.0, 2.5, 2.2, 2.0), "3 different sizes for 3 parameters"),
    ],
)
def test_points_that_are_no_proof_of_a_law_are_short_with_the_reason(tmp_path, undrawn, entropies, why):
    report = report_of(tmp_path, points_of(entropies))
    goals = {goal.name: goal for goal in report.goals}
    assert goals["scaling_size_r2"].why == goals["scaling_held_out_accuracy"].why == why
    assert goals["scaling_size_r2"].describe().endswith(f" 0.95 short ({why})")
    assert goals["scaling_data_r2"].is_met
    assert "nan" not in (tmp_path / "scaling.md").read_text()
    assert laws.Report.model_validate_json((tmp_path / "scaling.json").read_text()) == report


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda i, one: dataclasses.replace(one, learnt=i not in (1, 4)), "learnt nothing: size-1, size-4"),
        (lambda i, one: dataclasses.replace(one, negatives=9) if i == 0 else one, "learnt nothing: size-0"),
        (lambda _, one: dataclasses.replace(one, ndcg=np.full(400, 0.01)), "the smallest and the largest N cannot be told apart"),
        (
            lambda i, one: dataclasses.replace(one, entropy=2.0 - 1e-4 * i + np.random.default_rng(i).permutation(SPREAD)),
            "the smallest and the largest N cannot be told apart",
        ),
    ],
)
def test_towers_that_learnt_nothing_are_no_proof_of_a_law(tmp_path, undrawn, spoil, why):
    sizes = [spoil(i, one) for i, one in enumerate(points_of([3.0, 2.5, 2.25, 2.125, 2.0625]))]
    goals = {goal.name: goal for goal in report_of(tmp_path, sizes).goals}
    assert goals["scaling_size_r2"].why == goals["scaling_held_out_accuracy"].why == why
    assert goals["scaling_data_r2"].is_met


def test_a_prediction_must_be_nearer_than_the_size_before_it(tmp_path, undrawn):
    goal = report_of(tmp_path, points_of([3.0, 2.5, 2.25, 2.125, 2.124])).goals[-1]
    assert goal.figure > goal.bound
    assert goal.describe().endswith("short (no nearer than the size before it)")


def test_sizes_that_are_the_same_are_refused(tmp_path):
    sizes = [point(f"size-{i}", 100, 9, 2.0 - i / 10) for i in range(5)]
    with pytest.raises(DataError, match=r"L\(N\): 1 different sizes, of which a law needs 3"):
        report_of(tmp_path, sizes)


@pytest.mark.parametrize(
    ("override", "error", "said"),
    [
        ("scaling.widths=[4, 8, 16, 32]", RecipeError, "scaling.widths has 4 sizes; at least 5"),
        ("scaling.widths=[4, 8, 16, 32, 4096]", BackboneError, "in scaling.widths"),
        ("scaling.data_shares=[0.25, 0.5, 0.5, 1.0]", RecipeError, "scaling.data_shares has 3 different ones; at least 4"),
        ("scaling.negatives=40", DataError, "40 documents hold no 40 negatives a query"),
    ],
)
def test_what_cannot_be_fitted_or_measured_is_told_before_training(home, monkeypatch, override, error, said):
    monkeypatch.setattr(train, "learn", lambda *_: pytest.fail("trained"))
    grid = Grid(home / "tiny.toml", (override,), Source(data=home / "data"), home / f"few-{override[:16]}")
    with pytest.raises(error, match=said):
        scaling.plan(grid)


def test_pairs_that_are_held_out_are_not_learnt_from(home):
    write_data(home / "more", make_corpus(), judged=60)
    grid = Grid(home / "tiny.toml", ("train.dev.held_out_share=0.2",), Source(data=home / "more"), home / "held")
    found = scaling.train_and_measure(grid.variant("one", ["distill={layers = [0]}"]))
    assert found.pairs == 24


def test_sizes_as_narrow_as_a_matryoshka_width_are_trained_whole(home):
    grid = Grid(home / "tiny.toml", ("train.matryoshka=[8, 16]",), Source(data=home / "data"), home / "nested")
    assert {variant.recipe.train.matryoshka for variant in scaling.plan(grid).sizes} == {()}


def test_layers_are_cut_for_a_list_of_backbones(home):
    bert = json.dumps(str(home / "bert"))
    tables = ", ".join(f"{{backbone={bert}, layers={layers}}}" for layers in (1, 2, 3))
    grid = Grid(home / "tiny.toml", (f"scaling.backbones=[{tables}, {bert}, {bert}]",), Source(data=home / "data"), home / "cut")
    sizes = scaling.plan(grid).sizes
    assert [size.recipe.train.query_layers for size in sizes] == [(0,), (0, 1), (0, 1, 2), None, None]
    assert sizes[0].recipe.train.document_layers == (0,)


def test_a_narrow_backbone_keeps_what_its_words_have_in_common(home, tmp_path):
    for name in ("one", "again"):
        shrink.write_narrow(str(home / "bert"), 2, 8, tmp_path / name)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    narrow, whole = (
        towers.backbone_of(towers.build_tower(str(path))).get_input_embeddings().weight.detach().double().numpy()
        for path in (tmp_path / "one", home / "bert")
    )
    centred = whole - whole.mean(axis=0)
    assert narrow.shape == (len(whole), 8)
    expected = np.sort(np.linalg.svd(centred, compute_uv=False))[::-1][:8]
    assert np.linalg.norm(narrow, axis=0) == pytest.approx(expected, rel=1e-4)


def test_a_query_is_not_contrasted_with_the_document_that_has_its_id():
    judged = Judged("dev", ("a", "b"), ("x", "y"), ({3: 1, 4: 0}, {0: 2}), relevance=1, skipped=0, own={"a": 7})
    assert [sorted(barred) for barred in scaling._barred(judged)] == [[3, 7], [0]]
