"""Snapshots of the same documents that can be told apart by any part of them: by what is stored, and by the space itself.

A negated snapshot has every vector negated, of its documents and of its query tower: inner products, and so every hit and the
graph of its index, stay the same. But a vector of one tower finds the worst rows of the other's index instead of the best,
so that an answer which mixes tower, index or documents of two snapshots shows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import fields
from pathlib import Path

import faiss
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
from onnx import helper

from snapshot.documents import write_documents
from snapshot.layout import Layout
from snapshot.manifest import SPACE_KEY, Manifest, Space
from snapshot.seal import Draft, seal

_OUTPUT = "sentence_embedding"


def make_twin(layout: Layout, manifest: Manifest, folder: Path, mark: str, column: str, *, negated: bool) -> Layout:
    """Seal below ``folder`` a snapshot whose texts in ``column`` begin with ``mark``; what is not changed is hard-linked."""
    staging = Layout(folder / f".staging-{mark.strip()}")
    _link(layout.root, staging.root)
    staging.manifest.unlink()
    _mark_documents(layout, staging, mark, column)
    space = manifest.space
    if negated:
        space = Space(fingerprint=_negated(space.fingerprint), dim=space.dim)
        _negate_tower(staging, space)
        _negate_index(layout, staging)
        _replace_vectors(staging, -np.load(layout.golden_vectors))
    same = {field.name: getattr(manifest, field.name) for field in fields(Draft) if hasattr(manifest, field.name)}
    return Layout(seal(staging.root, Draft(**{**same, "space": space, "name": f"{manifest.name}, {mark.strip()}"})))


def bring(layout: Layout, registry: Path) -> None:
    """Hard-link a sealed snapshot into a registry."""
    _link(layout.root, registry / layout.root.name)


def _link(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def _negated(fingerprint: str) -> str:
    return hashlib.sha256(f"negated {fingerprint}".encode()).hexdigest()


def _mark_documents(layout: Layout, staging: Layout, mark: str, column: str) -> None:
    """Files are replaced, never changed: they are links."""
    for path in staging.documents.glob("*.arrow"):
        path.unlink()
    with pa.memory_map(str(next(layout.documents.glob("*.arrow")))) as source:
        table = pa.ipc.open_file(source).read_all()
        place = table.schema.get_field_index(column)
        marked = pc.binary_join_element_wise(mark, table.column(place), "")
        write_documents(table.set_column(place, table.schema.field(place), marked), staging.documents)


def _negate_tower(staging: Layout, space: Space) -> None:
    model = onnx.load(str(staging.model))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_before" if name == _OUTPUT else name for name in names]
    model.graph.node.append(helper.make_node("Neg", [f"{_OUTPUT}_before"], [_OUTPUT]))
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, kept | {SPACE_KEY: space.fingerprint})
    staging.model.unlink()
    onnx.save(model, str(staging.model))


def _negate_index(layout: Layout, staging: Layout) -> None:
    """The graph of an HNSW index depends on inner products alone: only its vectors change."""
    index = faiss.read_index(str(layout.index))
    storage = faiss.downcast_index(index.storage if hasattr(index, "storage") else index)
    vectors = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
    np.negative(vectors, out=vectors)
    staging.index.unlink()
    faiss.write_index(index, str(staging.index))


def _replace_vectors(staging: Layout, vectors: np.ndarray) -> None:
    staging.golden_vectors.unlink()
    np.save(staging.golden_vectors, vectors)
