from pathlib import Path

import pytest

from offline import distill, evaluate, train
from offline.errors import BackboneError
from offline.fingerprints import backbone_fingerprint
from offline.recipe import Recipe
from offline.stages import Source, Stage


def make_backbone(folder: Path) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).write_text(f"bytes of {name}")
    return folder


def test_the_bytes_and_names_of_the_files_count_and_not_where_they_lie(tmp_path: Path) -> None:
    folder = make_backbone(tmp_path / "one")
    before = backbone_fingerprint(str(folder))
    assert backbone_fingerprint(str(make_backbone(tmp_path / "two"))) == before
    (folder / ".git").write_text("hidden")
    assert backbone_fingerprint(str(folder)) == before
    (folder / "model.safetensors").write_text("bytes of model.safetensorz")
    changed = backbone_fingerprint(str(folder))
    (folder / "1_Pooling" / "config.json").rename(folder / "1_Pooling" / "other.json")
    assert len({before, changed, backbone_fingerprint(str(folder))}) == 3


def test_a_backbone_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_backbone(tmp_path / "models--a--b" / "snapshots" / "c0ffee")
    monkeypatch.setattr("offline.fingerprints.resolve_backbone", lambda _name: folder)
    assert backbone_fingerprint("a/b") == "c0ffee"
    assert backbone_fingerprint(str(folder)) != "c0ffee", "a folder that the user names may change"


@pytest.mark.parametrize(
    ("stage", "section"),
    [(train.STAGE, "train"), (evaluate.STAGE, "train"), (distill.STAGE, "distill")],
    ids=lambda value: str(value)[:30],
)
def test_a_stage_sees_that_its_backbone_changed(stage: Stage, section: str, tmp_path: Path) -> None:
    folder = make_backbone(tmp_path / "backbone")
    recipe = Recipe.model_validate({"name": "toy", section: {"backbone": str(folder)}})
    before = stage.outside(recipe, Source())
    assert stage.outside(recipe, Source()) == before
    (folder / "model.safetensors").write_text("others")
    assert stage.outside(recipe, Source()) != before


def test_a_backbone_that_is_gone_is_told_before_any_work() -> None:
    recipe = Recipe.model_validate({"name": "toy", "train": {"backbone": "./not-here"}})
    with pytest.raises(BackboneError, match="there is no such folder"):
        train.STAGE.outside(recipe, Source())
    assert not distill.STAGE.outside(recipe, Source()), "layers of the teacher need no backbone"
