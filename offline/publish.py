"""Into the registry, and declared as the snapshot to serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from offline.errors import StageError
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary
from snapshot.errors import UnknownSnapshotError
from snapshot.files import write_text
from snapshot.layout import MANIFEST
from snapshot.manifest import read_manifest
from snapshot.publish import is_intact
from snapshot.registry import Registry

PUBLISHED = "published.json"
COLLECTION = "collection"
"""File of the stage pack, where the vectors are on a server: what the collection is called until it is published."""


def run(job: Job) -> Summary:
    """Verify the sealed snapshot, bring it into ``source.registry`` and, if the recipe says so, activate it.

    Both may be repeated after a kill: neither does twice what is done.

    Raises:
        SnapshotError: the snapshot is damaged, or the registry cannot be written.
    """
    registry, sealed = Registry(job.source.registry), _sealed(job.inputs["pack"])
    manifest = read_manifest(sealed / MANIFEST)
    if manifest.index.kind == "milvus":
        from offline.milvus import name_collection  # which needs not be installed

        name_collection(manifest, job.recipe.milvus, _built_as(job.inputs["pack"]))
    snapshot_id = registry.publish(sealed).id
    if job.recipe.publish.activate and registry.found() != snapshot_id:  # activating mends a CURRENT that is garbage
        registry.activate(snapshot_id, why=reason(job.recipe))
    write_text(job.folder / PUBLISHED, json.dumps({"id": snapshot_id, "registry": str(job.source.registry)}))
    return {"snapshot": snapshot_id, "active": registry.found()}


def reason(recipe: Recipe) -> str:
    """Why a recipe activates, for the history."""
    return f"published by the recipe {recipe.name}"


def _sealed(folder: Path) -> Path:
    sealed = [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    if len(sealed) != 1:
        raise StageError(f"{folder}: holds {len(sealed)} sealed snapshots instead of one; run the stage pack again")
    return sealed[0]


def _built_as(folder: Path) -> str:
    try:
        return (folder / COLLECTION).read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        message = f"{folder}: does not say which collection its vectors are in; remove that folder, and run the stage pack again"
        raise StageError(message) from error


def _registry(_recipe: Recipe, source: Source) -> Mapping[str, str]:
    return {"registry": str(source.registry.resolve())}


def _is_published(job: Job) -> bool:
    """Somebody may have removed the snapshot, its collection or the whole registry since; or a disk may have damaged it."""
    try:
        there = Registry(job.source.registry).layout(json.loads((job.folder / PUBLISHED).read_text(encoding="utf-8"))["id"])
    except UnknownSnapshotError:
        return False
    if not is_intact(there.root):
        return False
    index = read_manifest(there.manifest).index
    if index.kind != "milvus":
        return True
    from offline.milvus import is_there  # as above

    return is_there(index, job.recipe.milvus)


STAGE = Stage(name="publish", run=run, needs=("pack",), sections=("publish",), outside=_registry, still_holds=_is_published)
