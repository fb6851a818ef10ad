"""A walk on a Milvus server that is run again: after its collection was dropped or spoilt, and for another snapshot of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from milvus_servers import shared_lite
from tiny_walk import ROWS, Base, make_base

from offline import evaluate
from offline.errors import MilvusError
from offline.milvus import connected
from offline.recipe import Recipe
from offline.stages import RECEIPT, Source, _inputs_digest
from offline.walk import Walk
from snapshot.collection import ROW
from snapshot.manifest import collection_name

TAIL = ("index", "pack", "publish")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Base:
    milvus = {"uri": shared_lite().uri, "effort_queries": 5}
    base = make_base(tmp_path_factory.mktemp("base"), index={"kind": "milvus"}, milvus=milvus)
    finish_evaluate(base, base.recipe)
    return base


@pytest.fixture
def base(made: Base, tmp_path: Path) -> Base:
    return made.copy(tmp_path / "base")


def source(base: Base) -> Source:
    return Source(data=base.root / "data", registry=base.registry.root)


def finish_evaluate(base: Base, recipe: Recipe) -> None:
    """As if it had been run on what is there: its receipt fits."""
    receipt = base.work / "evaluate" / RECEIPT
    digest = _inputs_digest(evaluate.STAGE, base.work, recipe, source(base))
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "inputs": digest}))


def again(base: Base, **pack: object) -> Mapping[str, bool]:
    """Run the tail of the walk; which stages were kept."""
    recipe = base.recipe.model_copy(update={"pack": base.recipe.pack.model_copy(update=pack)})
    walk = Walk(recipe, source(base), base.work)
    kept = {"index": walk.run("index").reused}
    finish_evaluate(base, recipe)
    return kept | {name: walk.run(name).reused for name in ("pack", "publish")}


def rows_of(base: Base) -> int:
    """Of the collection of the published snapshot, where nothing has been asked for."""
    name = collection_name(base.parent.root.name)
    with connected(base.recipe.milvus) as client:
        assert client.has_collection(name)
        counted = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    return int(counted[0]["count(*)"])


def spoil(base: Base, how: str) -> None:
    name = collection_name(base.parent.root.name)
    with connected(base.recipe.milvus) as client:
        if how == "dropped":
            client.drop_collection(name)
        else:
            client.delete(name, filter=f"{ROW} in [1, 2, 3]")


def test_what_was_published_is_kept_as_it_is(made: Base) -> None:
    assert again(made) == dict.fromkeys(TAIL, True)
    assert rows_of(made) == ROWS


def test_another_snapshot_of_the_same_index_gets_a_collection_of_its_own(base: Base) -> None:
    first = collection_name(base.parent.root.name)
    assert again(base, golden_queries=6) == dict.fromkeys(TAIL, False)
    assert rows_of(base) == ROWS
    assert len(base.registry.ids()) == 2
    with connected(base.recipe.milvus) as client:
        assert client.has_collection(first)
    assert again(base, golden_queries=6) == dict.fromkeys(TAIL, True)


def test_a_stage_by_itself_says_that_the_collection_is_another_snapshots(base: Base) -> None:
    recipe = base.recipe.model_copy(update={"pack": base.recipe.pack.model_copy(update={"golden_queries": 6})})
    with pytest.raises(MilvusError, match=r"build_\w+: not on the server: it was dropped, or is another snapshot's"):
        Walk(recipe, source(base), base.work).run("pack")


@pytest.mark.parametrize("how", ["rows deleted", "dropped"])
def test_a_published_collection_that_is_gone_is_written_anew_by_the_same_command(made: Base, how: str) -> None:
    spoil(made, how)
    assert again(made) == dict.fromkeys(TAIL, False)
    assert rows_of(made) == ROWS


def test_publishing_alone_sees_that_the_collection_is_gone_and_says_what_writes_it(made: Base) -> None:
    spoil(made, "dropped")
    with pytest.raises(MilvusError, match="`python -m offline run` writes it anew"):
        Walk(made.recipe, source(made), made.work).run("publish")
