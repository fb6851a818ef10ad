"""A sealed snapshot is intact, and every way of damaging it is found and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import (
    CountMismatchError,
    ExtraFileError,
    HashMismatchError,
    ManifestError,
    MissingFileError,
    NewerSchemaError,
    SnapshotError,
    UnsafePathError,
)
from snapshot.layout import Layout
from snapshot.verify import verify


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_snapshot(tmp_path, rows=30)


def edit(layout: Layout, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(layout.manifest.read_text())
    change(content)
    layout.manifest.write_text(json.dumps(content))


def flip_bit(layout: Layout) -> None:
    content = bytearray(layout.index.read_bytes())
    content[len(content) // 2] ^= 1
    layout.index.write_bytes(content)


def link_outside(layout: Layout) -> None:
    outside = layout.root.parent / "outside.json"
    outside.write_bytes(layout.tokenizer.read_bytes())
    layout.tokenizer.unlink()
    layout.tokenizer.symlink_to(outside)


def list_outside(layout: Layout) -> None:
    edit(layout, lambda manifest: manifest["files"].update({"../evil": {"bytes": 1, "sha256": "0" * 64}}))


def unlist_model(layout: Layout) -> None:
    layout.model.unlink()
    edit(layout, lambda manifest: manifest["files"].pop("query_tower/model.onnx"))


DAMAGE: list[tuple[Callable[[Layout], object], type[SnapshotError], str]] = [
    (flip_bit, HashMismatchError, "index.faiss: sha256"),
    (lambda layout: layout.index.write_bytes(layout.index.read_bytes()[:-1]), HashMismatchError, "bytes"),
    (lambda layout: layout.model.write_bytes(b""), HashMismatchError, "model.onnx: 0 bytes"),
    (lambda layout: layout.tokenizer.unlink(), MissingFileError, "tokenizer.json: missing"),
    (unlist_model, MissingFileError, "model.onnx: missing"),
    (lambda layout: (layout.root / "index" / "more").write_text("x"), ExtraFileError, "index/more: not in the manifest"),
    (link_outside, UnsafePathError, "tokenizer.json: a symbolic link"),
    (lambda layout: layout.manifest.unlink(), ManifestError, "cannot be read"),
    (lambda layout: layout.manifest.write_text("{"), ManifestError, "not a manifest"),
    (lambda layout: edit(layout, lambda m: m.update(schema_version=2)), NewerSchemaError, "schema version 2 is newer"),
    (lambda layout: edit(layout, lambda m: m["index"].update(kind="magic")), ManifestError, "index"),
    (lambda layout: edit(layout, lambda m: m.update(surprise=1)), ManifestError, "surprise"),
    (lambda layout: edit(layout, lambda m: m.update(id="other")), ManifestError, "named by its id"),
    (lambda layout: edit(layout, lambda m: m["documents"].update(count=10**9)), CountMismatchError, "30 documents"),
    (lambda layout: edit(layout, lambda m: m["documents"]["columns"].pop()), CountMismatchError, "columns"),
    (list_outside, UnsafePathError, "'../evil' leaves the snapshot"),
]


def test_an_intact_snapshot_is_its_manifest(layout: Layout) -> None:
    manifest = verify(layout.root)
    assert manifest.id == layout.root.name
    assert manifest.documents.count == 30


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE)
def test_damage_is_refused_by_name(
    layout: Layout, damage: Callable[[Layout], object], error: type[SnapshotError], message: str
) -> None:
    damage(layout)
    with pytest.raises(error, match=message.replace(".", r"\.")) as caught:
        verify(layout.root)
    assert type(caught.value) is error


def test_a_folder_killed_before_its_manifest_does_not_exist(layout: Layout) -> None:
    layout.root.rename(layout.root.with_name("staging"))
    (layout.root.with_name("staging") / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="no snapshot"):
        verify(layout.root.with_name("staging"))
