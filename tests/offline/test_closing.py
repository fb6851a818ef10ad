"""The last line of a run is true of the registry, whatever happened there since the stage that publishes."""

import json
import shutil

import pytest
from make_snapshot import make_snapshot

from offline.closing import after_run, after_since, unchanged
from offline.config import PublishConfig
from offline.findings import Goal
from offline.recipe import Recipe
from offline.stages import Source
from offline.walk import Walk
from snapshot.registry import Registry


@pytest.fixture
def walk(tmp_path):
    """A walk whose snapshot is published and desired, by both walks."""
    registry = Registry(tmp_path / "registry")
    mine = registry.publish(make_snapshot(tmp_path / "made").root).id
    registry.activate(mine, why="a test")
    for stage in ("publish", "since/publish"):
        (tmp_path / "work" / stage).mkdir(parents=True)
        (tmp_path / "work" / stage / "published.json").write_text(json.dumps({"id": mine}))
    told = {"parent": mine, "documents": 60, "new": 0, "changed": 0, "unchanged": 60, "dropped": 0, "encoded": 0, "is_same": True}
    (tmp_path / "work" / "since" / "encode").mkdir()
    (tmp_path / "work" / "since" / "encode" / "changes.json").write_text(json.dumps(told))
    return Walk(Recipe(name="toy"), Source(registry=registry.root), tmp_path / "work")


def want_another(walk):
    registry = Registry(walk.source.registry)
    other = registry.publish(make_snapshot(walk.work / "other", seed=1).root).id
    registry.activate(other, why="try the other")
    return other


@pytest.mark.parametrize("line", [after_run, after_since])
def test_services_of_a_milvus_index_are_told_the_server(walk, line):
    assert "--milvus-uri" not in line(walk)
    index = walk.recipe.index.model_copy(update={"kind": "milvus"})
    milvus = walk.recipe.milvus.model_copy(update={"uri": "http://milvus.example:19530"})
    changed = Walk(walk.recipe.model_copy(update={"index": index, "milvus": milvus}), walk.source, walk.work)
    assert "--milvus-uri http://milvus.example:19530" in line(changed)


def without_activating(walk):
    return Walk(walk.recipe.model_copy(update={"publish": PublishConfig(activate=False)}), walk.source, walk.work)


@pytest.mark.parametrize(("line", "ends"), [(after_run, "python -m service --registry"), (after_since, "swap to it; see")])
def test_what_is_desired_is_served_and_what_is_not_says_how(walk, line, ends):
    assert ends in line(walk)
    other = want_another(walk)
    said = line(walk)
    assert ends not in said
    assert f"It is not served: {other} is desired there." in said
    assert said.endswith(f"python -m snapshot activate {walk.published()} --registry {walk.source.registry}")


def test_goals_that_are_short_are_named_where_something_is_declared_to_be_served(walk):
    goals = [Goal(name="latency_ratio_served", figure=9.0, bound=8.0), Goal(name="retention_low", figure=0.9, bound=0.97)]
    (walk.work / "evaluate").mkdir()
    report = walk.work / "evaluate" / "report.json"
    report.write_text(json.dumps({"goals": [goal.model_dump() for goal in goals]}))
    assert "report.md. Short of its goals, which hold nothing back: retention_low. Serve it with" in after_run(walk)
    report.write_text(json.dumps({"goals": [goals[0].model_dump()]}))
    assert "report.md. Serve it with" in after_run(walk)


@pytest.mark.parametrize("line", [after_run, after_since])
@pytest.mark.parametrize(("content", "shown"), [(None, "nothing"), ("../garbage", "?")])
def test_a_registry_in_which_nothing_is_desired_says_so(walk, line, content, shown):
    current = walk.source.registry / "CURRENT"
    current.unlink()
    if content is not None:
        current.write_text(content)
    assert f"It is not served: {shown} is desired there. Activate it with" in line(walk)


def test_nothing_changed_since_what_is_desired_does_nothing(walk):
    before = len(Registry(walk.source.registry).history())
    assert unchanged(walk).endswith("Nothing is published.")
    assert len(Registry(walk.source.registry).history()) == before


def test_nothing_changed_since_what_is_not_desired_activates_it(walk):
    want_another(walk)
    said = unchanged(walk)
    registry = Registry(walk.source.registry)
    assert said.endswith(f"It is activated in {registry.root}, where something else was desired.")
    assert registry.current() == walk.published()
    assert registry.history()[-1].why == "published by the recipe toy"


def test_nothing_changed_says_what_is_desired_where_the_recipe_does_not_activate(walk):
    other = want_another(walk)
    said = unchanged(without_activating(walk))
    assert f"It is not served: {other} is desired there. Activate it with" in said
    assert Registry(walk.source.registry).current() == other


def test_a_parent_from_elsewhere_is_not_activated_here(walk):
    registry, parent = Registry(walk.source.registry), walk.published()
    other = want_another(walk)
    shutil.rmtree(registry.root / parent)
    assert unchanged(walk).endswith(f"Nothing is published. It is not in {registry.root}.")
    assert registry.current() == other


def test_changed_data_is_no_end(walk):
    changes = walk.work / "since" / "encode" / "changes.json"
    changes.write_text(json.dumps(json.loads(changes.read_text()) | {"is_same": False}))
    assert unchanged(walk) is None
