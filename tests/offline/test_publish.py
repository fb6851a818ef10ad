"""The registry is the real one; the snapshots are sealed toys."""

import json
import shutil

import pytest
from make_snapshot import make_snapshot

from offline.config import PublishConfig
from offline.errors import StageError
from offline.publish import STAGE
from offline.recipe import Recipe
from offline.stages import RECEIPT, Source, run_stage
from snapshot.errors import HashMismatchError
from snapshot.registry import Registry
from snapshot.verify import verify

RECIPE = Recipe(name="toy")


@pytest.fixture
def work(tmp_path):
    """A work folder whose stage pack has finished."""
    make_snapshot(tmp_path / "work" / "pack")
    receipt = {"inputs": "", "outputs": {}, "summary": {}, "seconds": 0}
    (tmp_path / "work" / "pack" / RECEIPT).write_text(json.dumps(receipt))
    return tmp_path / "work"


def publish(work, registry, recipe=RECIPE):
    return run_stage(STAGE, work, recipe, Source(registry=registry))


def test_a_published_snapshot_is_intact_and_active(work, tmp_path):
    outcome = publish(work, tmp_path / "registry")
    registry = Registry(tmp_path / "registry")
    snapshot_id = json.loads((outcome.folder / "published.json").read_text())["id"]
    assert registry.ids() == [snapshot_id]
    assert registry.current() == snapshot_id
    assert verify(registry.layout(snapshot_id).root).name == "toy"


def test_it_is_not_activated_unless_the_recipe_says_so(work, tmp_path):
    publish(work, tmp_path / "registry", RECIPE.model_copy(update={"publish": PublishConfig(activate=False)}))
    assert Registry(tmp_path / "registry").current() is None


def test_what_was_published_is_not_published_again(work, tmp_path):
    publish(work, tmp_path / "registry")
    again = publish(work, tmp_path / "registry")
    assert again.reused
    assert [event.action for event in Registry(tmp_path / "registry").history()] == ["publish", "activate"]


def test_an_operator_who_activated_another_one_since_is_not_overruled(work, tmp_path):
    publish(work, tmp_path / "registry")
    other = make_snapshot(tmp_path / "other", seed=1).root
    registry = Registry(tmp_path / "registry")
    registry.activate(registry.publish(other).id, why="try the other")
    publish(work, tmp_path / "registry")
    assert registry.current() == other.name


@pytest.mark.parametrize("removed", ["snapshot", "registry"])
def test_what_was_removed_is_published_again(removed, work, tmp_path):
    publish(work, tmp_path / "registry")
    registry = Registry(tmp_path / "registry")
    shutil.rmtree(registry.root if removed == "registry" else registry.layout(registry.ids()[0]).root)
    again = publish(work, tmp_path / "registry")
    assert not again.reused
    assert registry.current() == registry.ids()[0]


def test_what_was_damaged_is_published_again(work, tmp_path):
    publish(work, tmp_path / "registry")
    registry = Registry(tmp_path / "registry")
    there = registry.layout(registry.ids()[0])
    there.index.unlink()
    there.index.write_bytes(b"damaged")
    assert not publish(work, tmp_path / "registry").reused
    verify(there.root)
    assert publish(work, tmp_path / "registry").reused


@pytest.mark.parametrize("current", [b"../garbage\n", b"\xff", b"x" * 5000])
@pytest.mark.parametrize("activate", [True, False])
def test_a_current_that_is_garbage_stops_no_publishing(current, activate, work, tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.root.mkdir()
    (registry.root / "CURRENT").write_bytes(current)
    outcome = publish(work, registry.root, RECIPE.model_copy(update={"publish": PublishConfig(activate=activate)}))
    assert outcome.summary["active"] == (registry.ids()[0] if activate else "?")
    assert registry.found() == outcome.summary["active"]


def test_another_registry_gets_its_own(work, tmp_path):
    publish(work, tmp_path / "one")
    publish(work, tmp_path / "two")
    assert Registry(tmp_path / "one").ids() == Registry(tmp_path / "two").ids()


def test_a_damaged_snapshot_is_refused(work, tmp_path):
    (model,) = (work / "pack").glob("*/query_tower/model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(HashMismatchError):
        publish(work, tmp_path / "registry")
    assert Registry(tmp_path / "registry").ids() == []


def test_without_a_sealed_snapshot_the_remedy_is_named(work, tmp_path):
    (folder,) = (path for path in (work / "pack").iterdir() if path.is_dir())
    shutil.rmtree(folder)
    with pytest.raises(StageError, match="run the stage pack again"):
        publish(work, tmp_path / "registry")
