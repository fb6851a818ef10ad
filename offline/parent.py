"""The sealed snapshot that a new one goes on from: found, verified, and read back exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa

from offline import towers
from offline.changes import Hashes
from offline.efforts import open_described
from offline.errors import ParentError
from offline.ranking import Floats, Rows
from offline.recipe import Recipe
from offline.sharded import Shards
from offline.stages import Source
from snapshot.documents import open_table
from snapshot.errors import SnapshotError, SpaceMismatchError
from snapshot.files import sha256
from snapshot.layout import MANIFEST, Layout
from snapshot.manifest import Manifest, TextSpec, read_manifest
from snapshot.registry import Registry

DESIRED = "CURRENT"
"""In place of an id: the snapshot that the registry's operators want served."""


@dataclass(frozen=True)
class Parent:
    """A sealed snapshot. Everything is opened when first asked for."""

    layout: Layout

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.layout.manifest)

    @cached_property
    def fingerprint(self) -> str:
        """Of the manifest, which names the hash of every other file."""
        return sha256(self.layout.manifest)

    @cached_property
    def documents(self) -> pa.Table:
        """Ids and stored columns, memory-mapped."""
        return open_table(self.layout.documents)

    @property
    def ids(self) -> list[str]:
        return list(self.documents.column("id").to_pylist())

    @property
    def text_hashes(self) -> Hashes | None:
        """uint8[rows, 32] of the rendered texts; None in a snapshot that was made before they were kept."""
        if not self.layout.text_hashes.is_file():
            return None
        return np.asarray(np.load(self.layout.text_hashes, allow_pickle=False))

    @cached_property
    def golden_queries(self) -> list[str]:
        return [str(query) for query in json.loads(self.layout.golden_queries.read_text(encoding="utf-8"))]

    @property
    def golden_vectors(self) -> Floats:
        """float32[q, dim], by the torch tower."""
        return np.asarray(np.load(self.layout.golden_vectors, allow_pickle=False))

    @property
    def file_kind(self) -> Literal["flat", "hnsw", "ivfpq", "sharded"]:
        """Of its index.

        Raises:
            ParentError: it is in no file.
        """
        return _file_kind(self.manifest)

    @cached_property
    def _index(self) -> faiss.Index | Shards:
        _file_kind(self.manifest)
        return open_described(self.layout.index.parent, self.manifest.index)

    def vectors(self, rows: Rows) -> Floats:
        """float32[n, dim] of those rows, byte for byte as they were indexed."""
        if not len(rows):
            return np.empty((0, self.manifest.space.dim), np.float32)
        if isinstance(self._index, Shards):
            return self._whole_vectors(self._index, rows)
        stored = exact_storage(self._index, self.layout.index)
        return np.asarray(stored.reconstruct_batch(np.ascontiguousarray(rows, np.int64)))

    def _whole_vectors(self, shards: Shards, rows: Rows) -> Floats:
        refine = getattr(self.manifest.index, "refine", None)
        if refine != "fp32":
            raise ParentError(
                f"{self.manifest.id}: its index keeps vectors as {refine}, which cannot be carried over byte for byte; run "
                'without a parent, with sharded.refine = "fp32" if later ones are to have one'
            )
        return shards.vectors(rows)


def _file_kind(manifest: Manifest) -> Literal["flat", "hnsw", "ivfpq", "sharded"]:
    kind = manifest.index.kind
    if kind == "milvus":
        raise ParentError(
            f"{manifest.id}: its vectors are on a Milvus server and are not read back from there; name a parent whose "
            "index is a file, or run without one"
        )
    return kind


def exact_storage(index: faiss.Index, where: Path) -> faiss.IndexFlat:
    """The part of an index that keeps float32 vectors as they came: itself, an HNSW graph's storage, or what refines IVF-PQ.

    It lives as long as ``index``, which owns it.

    Raises:
        ParentError: it keeps them only compressed.
    """
    found = faiss.downcast_index(index)
    if isinstance(found, faiss.IndexRefineFlat):
        found = faiss.downcast_index(found.refine_index)
    elif isinstance(found, faiss.IndexHNSW):
        found = faiss.downcast_index(found.storage)
    if not isinstance(found, faiss.IndexFlat):
        raise ParentError(
            f"{where}: {type(found).__name__} keeps compressed vectors, which cannot be carried over byte for byte; run without"
        )
    return found


def find_parent(name: str, registry: Path, option: str) -> Path:
    """The folder of the snapshot ``name``: a folder, an id in ``registry``, or ``CURRENT``.

    Raises:
        ParentError: there is none; names the option of the command line.
    """
    if (Path(name) / MANIFEST).is_file():
        return Path(name).resolve()
    if len(Path(name).parts) != 1:
        raise ParentError(f"{option} {name}: no {MANIFEST} there; give the folder of a sealed snapshot, or an id in {registry}")
    known = Registry(registry)
    wanted = known.current() if name == DESIRED else name
    if wanted is None:
        raise ParentError(f"{option} {name}: nothing is activated in {registry}; name a snapshot, or make one without {option}")
    try:
        return known.layout(wanted).root.resolve()
    except SnapshotError as error:
        ids = known.ids()
        there = f"there are: {', '.join(ids[-5:])}" if ids else f"{registry} holds none; make a first one without {option}"
        raise ParentError(f"{option} {name}: neither a folder nor a snapshot in {registry}; {there}") from error


def parent_of(source: Source) -> Parent:
    """The parent that the command line named."""
    if source.parent is None:
        raise ParentError("no parent is named; give --since PARENT or --reuse-index PARENT")
    return Parent(Layout(source.parent))


def on_parent(_recipe: Recipe, source: Source) -> Mapping[str, str]:
    """What a stage that reads the parent depends on: its manifest, which holds the hash of every file."""
    return {"parent": parent_of(source).fingerprint}


def check_texts(parent: Parent, document: TextSpec) -> None:
    """Refuse a recipe that renders documents in another way than the parent did.

    Raises:
        ParentError: names the recipe's key.
    """
    _check_spec("text.document", parent.manifest.document_text, document, parent.manifest.id)


def check_query_texts(parent: Parent, query: TextSpec) -> None:
    """The same for queries, where the parent's query tower is kept."""
    _check_spec("text.query", parent.manifest.query_tower.text, query, parent.manifest.id)


def _check_spec(section: str, theirs: TextSpec, ours: TextSpec, snapshot: str) -> None:
    for name in type(ours).model_fields:
        before, now = getattr(theirs, name), getattr(ours, name)
        if before != now:
            raise ParentError(
                f"{section}.{name} is {now!r} in the recipe and {before!r} in {snapshot}: vectors would not be of one space; "
                "set it back, or make a whole new snapshot with a run that names no parent"
            )


def check_space(parent: Parent, tower: Path, recipe: Recipe) -> str:
    """The fingerprint of the space that the document tower in ``tower`` spans, if it is the parent's.

    Raises:
        ParentError: there is no tower.
        SpaceMismatchError: it is another one, such as after training again.
    """
    if not (tower / "modules.json").is_file():
        raise ParentError(f"{tower}: no document tower there; name the folder of the parent's with --document-tower DIR")
    found = towers.space_fingerprint(tower, recipe.text.document)
    space = parent.manifest.space.fingerprint
    if found != space:
        raise SpaceMismatchError(
            f"{tower}: it spans the document space {found[:12]}, the vectors of {parent.manifest.id} are of {space[:12]}; "
            "name the tower that made them with --document-tower DIR, or run without a parent to encode everything anew"
        )
    return found


def list_files(folder: Path) -> Sequence[Path]:
    """Every file below ``folder``, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
