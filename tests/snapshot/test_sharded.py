"""A snapshot whose index lies in several files: verified, copied and removed as one."""

from __future__ import annotations

import json

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import HashMismatchError, ManifestError, MissingFileError
from snapshot.pull import pull_snapshot
from snapshot.push import push_snapshot
from snapshot.registry import Registry
from snapshot.stores import open_store
from snapshot.verify import verify

PARTS = ["part-00000.faiss", "part-00001.faiss", "part-00002.faiss"]


@pytest.fixture
def layout(tmp_path):
    return make_snapshot(tmp_path / "registry", rows=600, kind="sharded")


def test_every_file_is_in_the_manifest(layout):
    manifest = verify(layout.root)
    assert manifest.index.kind == "sharded"
    assert manifest.index.parts == (240, 240, 120)
    assert [path.name for path in layout.index_files(manifest.index.files)] == PARTS
    assert sorted(name for name in manifest.files if name.startswith("index/")) == [f"index/{name}" for name in PARTS]


def test_a_missing_or_changed_file_is_told_by_name(layout):
    path = layout.index.with_name(PARTS[1])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HashMismatchError, match=PARTS[1]):
        verify(layout.root)
    path.unlink()
    with pytest.raises(MissingFileError, match=PARTS[1]):
        verify(layout.root)


def edit(layout, change):
    manifest = json.loads(layout.manifest.read_text())
    change(manifest)
    layout.manifest.write_text(json.dumps(manifest))


def test_a_file_that_is_not_in_the_manifest_either_is_missing_all_the_same(layout):
    layout.index.with_name(PARTS[2]).unlink()
    edit(layout, lambda manifest: manifest["files"].pop(f"index/{PARTS[2]}"))
    with pytest.raises(MissingFileError, match=PARTS[2]):
        verify(layout.root)


def test_files_with_fewer_rows_than_documents_are_refused(layout):
    edit(layout, lambda manifest: manifest["index"].update(parts=[240, 240]))
    with pytest.raises(ManifestError, match=r"index\.parts have 480 rows, documents\.count is 600"):
        verify(layout.root)


def test_all_files_travel_and_all_are_removed(layout, tmp_path):
    (tmp_path / "store").mkdir()
    here, store = Registry(layout.root.parent), open_store((tmp_path / "store").as_uri())
    push_snapshot(here, layout.root.name, store)
    there = Registry(tmp_path / "elsewhere")
    pull_snapshot(store, layout.root.name, there)
    pulled = there.layout(layout.root.name)
    assert verify(pulled.root) == verify(layout.root)
    for name in PARTS:
        assert pulled.index.with_name(name).read_bytes() == layout.index.with_name(name).read_bytes()
    newer = make_snapshot(tmp_path / "newer", seed=1)
    there.publish(newer.root)
    there.activate(newer.root.name, why="newer")
    there.gc(keep=0)
    assert there.ids() == [newer.root.name]
