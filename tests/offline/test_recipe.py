"""A recipe that does not fit says which key, where and what would."""

import codecs
from pathlib import Path

import pytest

from offline.errors import RecipeError
from offline.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "offline" / "recipes").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_defaults_are_filled_in_and_overrides_win(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, 'name = "my"\n[train]\nepochs = 2\n'), ["train.epochs=3", "index.kind=hnsw", "data.relevance=2"]
    )
    assert recipe.train.epochs == 3
    assert recipe.index.kind == "hnsw"
    assert recipe.data.relevance == 2
    assert recipe.text.query.template == "{text}"


def test_a_student_from_another_backbone_replaces_the_layers(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'name = "my"\n[distill]\nbackbone = "folder"\n'))
    assert recipe.distill.layers is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "my"\n[train]\nepochz = 1\n', "train.epochz: unknown key; did you mean epochs?"),
        ('name = "my"\n[trian]\nepochs = 1\n', "trian: unknown key; did you mean train?"),
        ('name = "my"\n[data]\nzzz = 1\n', "data.zzz: unknown key; known keys: source"),
        ('name = "my"\n[train]\nepochs = "many"\n', "train.epochs: Input should be a valid number"),
        ('name = "my"\n[train]\nbatch_size = "64"\n', "train.batch_size: Input should be a valid integer"),
        ('name = "my"\n[train]\nseed = true\n', "train.seed: Input should be a valid integer"),
        ('name = "my"\n[train]\nepochs = inf\n', "train.epochs: Input should be a finite number"),
        ('name = "my"\n[publish]\nactivate = "yes"\n', "publish.activate: Input should be a valid boolean"),
        ('name = "my"\n[text.query]\nmax_tokens = "9"\n', "text.query.max_tokens: Input should be a valid integer"),
        ('name = "my"\n[train]\nbatch_size = 1\n', "train.batch_size: Input should be greater than or equal to 2"),
        ('name = "my"\n[text.query]\nmax_tokens = 0\n', "text.query.max_tokens"),
        ('name = "My recipe"\n', "name: String should match pattern"),
        ("[train]\nepochs = 1\n", "name: Field required"),
        ('name = "my"\n[distill]\nlayers = [0]\nbackbone = "x"\n', "either layers (of the teacher) or backbone"),
        ('name = "my"\n[distill]\nmse_weight = 0\ncosine_weight = 0\n', "nothing would be learnt"),
        ('name = "my"\n[text.query]\ntemplate = "query: "\n', "text.query.template: 'query: ' must hold {text}, and no other"),
        ('name = "my"\n[text.query]\ntemplate = "{title}"\n', "text.query.template: '{title}' must hold {text}"),
        ('name = "my"\n[text.document]\ntemplate = "passage"\n', "text.document.template: 'passage' must hold {title} or {text}"),
        ('name = "my"\n[text.document]\ntemplate = "{text} {body}"\n', "text.document.template: '{text} {body}' must hold"),
        ('name = "my"\n[data]\ntemplates = ["{title!x}"]\n', "data.templates: '{title!x}' is no template"),
        ('name = "my"\n[data]\ntemplates = ["{title:d}"]\n', "data.templates: '{title:d}' is no template"),
        ("name = \n", "not TOML"),
    ],
)
def test_bad_recipes_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "section.key=value"),
        ("=3", "section.key=value"),
        ("name.x=3", "is a value"),
        ("train.zz=3", "unknown key"),
    ],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, 'name = "my"\n'), [override])


def test_a_missing_or_binary_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "no.toml")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "bytes.toml")


def test_a_recipe_may_begin_with_the_mark_of_a_windows_editor(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(codecs.BOM_UTF8 + RECIPES[0].read_bytes().replace(b"\n", b"\r\n"))
    assert load_recipe(tmp_path / "marked.toml") == load_recipe(RECIPES[0])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_load(path: Path) -> None:
    assert load_recipe(path).name == path.stem
