"""A sealed snapshot is intact, and every way of damaging it is found and named."""

import errno
import json
import math
import os
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from make_snapshot import make_snapshot

from snapshot.documents import check_ids, open_table, write_documents
from snapshot.errors import (
    CountMismatchError,
    ExtraFileError,
    HashMismatchError,
    IntegrityError,
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


def link_folder_outside(layout: Layout) -> None:
    layout.golden.rename(layout.root.parent / "golden")
    layout.golden.symlink_to(layout.root.parent / "golden")


def link_manifest_outside(layout: Layout) -> None:
    layout.manifest.rename(layout.root.parent / "manifest.json")
    layout.manifest.symlink_to(layout.root.parent / "manifest.json")


def pipe(layout: Layout) -> None:
    layout.tokenizer.unlink()
    os.mkfifo(layout.tokenizer)


def list_in_two_cases(layout: Layout) -> None:
    edit(layout, lambda manifest: manifest["files"].update({"INDEX/index.faiss": manifest["files"]["index/index.faiss"]}))


def claim_bytes(count: int) -> Callable[[Layout], None]:
    return lambda layout: edit(layout, lambda manifest: manifest["files"]["index/index.faiss"].update(bytes=count))


def list_many(layout: Layout) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64}
    edit(layout, lambda manifest: manifest["files"].update({f"report/{number}": entry for number in range(70_000)}))


def repeat_column(manifest: dict[str, Any]) -> None:
    columns = manifest["documents"]["columns"]
    columns.append(next(column for column in columns if column["name"] == "kind"))


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
    (lambda layout: edit(layout, lambda m: m.update(created_at="2026-11-20T10:00:00")), ManifestError, "created_at"),
    (lambda layout: edit(layout, lambda m: m.update(surprise=1)), ManifestError, "surprise"),
    (lambda layout: edit(layout, lambda m: m.update(id="other")), ManifestError, "named by its id"),
    (lambda layout: edit(layout, lambda m: m["documents"].update(count=10**9)), CountMismatchError, "30 documents"),
    (lambda layout: edit(layout, lambda m: m["documents"]["columns"].pop()), CountMismatchError, "columns"),
    (link_folder_outside, UnsafePathError, "golden: a symbolic link"),
    (link_manifest_outside, ManifestError, "manifest.json: cannot be read (a symbolic link)"),
    (pipe, IntegrityError, "tokenizer.json: not a plain file"),
    (list_in_two_cases, UnsafePathError, "in case only"),
    (claim_bytes(10**15), HashMismatchError, "bytes, 1000000000000000 were sealed"),
    (claim_bytes(10**18), ManifestError, "bytes: Input should be less than"),
    (claim_bytes(-1), ManifestError, "bytes: Input should be greater than"),
    (claim_bytes(10**400), ManifestError, "bytes"),
    (list_many, ManifestError, "files: Dictionary should have at most 65536 items"),
    (lambda layout: layout.manifest.write_bytes(b" " * (17 << 20)), ManifestError, "larger than 16777216 bytes"),
    (lambda layout: layout.manifest.write_bytes(b"[" * 1_000_000), ManifestError, "recursion limit exceeded"),
    (lambda layout: layout.manifest.write_bytes(b"\xff\xfe"), ManifestError, "not a manifest"),
    (lambda layout: edit(layout, lambda m: m["golden"].update(queries=10**9)), ManifestError, "golden.queries"),
    (lambda layout: edit(layout, lambda m: m["golden"].update(max_cosine_distance=math.inf)), ManifestError, "finite number"),
    (lambda layout: edit(layout, lambda m: m["golden"].update(max_cosine_distance=math.nan)), ManifestError, "finite number"),
    (lambda layout: edit(layout, lambda m: m["documents"].update(count=10**30)), ManifestError, "documents.count"),
    (lambda layout: edit(layout, lambda m: m.update(id="../up")), ManifestError, "id: String should match pattern"),
    (list_outside, UnsafePathError, "'../evil' leaves the snapshot"),
    (lambda layout: edit(layout, lambda m: m["query_tower"].update(pad_token_id=10**30)), ManifestError, "pad_token_id"),
    (lambda layout: edit(layout, lambda m: m["query_tower"].update(pad_token_id=-1)), ManifestError, "pad_token_id"),
    (lambda layout: edit(layout, lambda m: m["query_tower"].update(layers=10**9)), ManifestError, "layers"),
    (lambda layout: edit(layout, lambda m: m["query_tower"].update(parameters=10**30)), ManifestError, "parameters"),
    (lambda layout: edit(layout, lambda m: m["index"]["efforts"][-1].update(effort=2**31)), ManifestError, "effort"),
    (lambda layout: edit(layout, repeat_column), ManifestError, "two columns are called 'kind'"),
    (lambda layout: edit(layout, lambda m: m["documents"]["columns"][0].update(name="id")), ManifestError, "called 'id'"),
]
NUMBERS = [
    ("hnsw", "m", 10**30),
    ("hnsw", "m", 1),
    ("hnsw", "ef_construction", -(10**30)),
    ("ivfpq", "nlist", 10**30),
    ("ivfpq", "nlist", 0),
    ("ivfpq", "pq_bytes", 10**9),
    ("ivfpq", "refine_factor", 10**5),
    ("ivfpq", "refine_factor", 0),
    ("sharded", "code_bytes", 10**30),
    ("sharded", "refine_factor", 10**9),
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
    with pytest.raises(error, match=re.escape(message)) as caught:
        verify(layout.root)
    assert type(caught.value) is error


@pytest.mark.parametrize(("kind", "field", "number"), NUMBERS)
def test_numbers_of_an_index_that_nobody_could_serve_are_refused(tmp_path: Path, kind: str, field: str, number: int) -> None:
    sealed = make_snapshot(tmp_path, rows=250, kind=kind)
    edit(sealed, lambda manifest: manifest["index"].update({field: number}))
    with pytest.raises(ManifestError, match=field):
        verify(sealed.root)


def test_a_folder_killed_before_its_manifest_does_not_exist(layout: Layout) -> None:
    layout.root.rename(layout.root.with_name("staging"))
    (layout.root.with_name("staging") / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="no snapshot"):
        verify(layout.root.with_name("staging"))


def claim_rows(layout: Layout) -> None:
    """The Arrow file itself says that it has 10^9 rows, and so does each of its columns."""
    (part,) = layout.documents.iterdir()
    part.write_bytes(part.read_bytes().replace(struct.pack("<q", 30), struct.pack("<q", 10**9)))


def long_text(layout: Layout) -> None:
    """The last text ends far behind its buffer."""
    (part,) = layout.documents.iterdir()
    content = part.read_bytes()
    ends = [sum(len(f"doc-{row}") for row in range(count)) for count in (29, 30)]
    assert content.count(struct.pack("<ii", *ends)) == 1
    part.write_bytes(content.replace(struct.pack("<ii", *ends), struct.pack("<ii", ends[0], 2**31 - 1)))


def no_text(layout: Layout) -> None:
    (part,) = layout.documents.iterdir()
    part.write_bytes(part.read_bytes().replace(b"doc-0", b"\xff\xff\xff\xff\xff"))


@pytest.mark.parametrize("tamper", [claim_rows, long_text, no_text])
def test_documents_that_lie_about_themselves_are_refused_though_their_hashes_fit(
    tmp_path: Path, tamper: Callable[[Layout], None]
) -> None:
    sealed = make_snapshot(tmp_path, rows=30, tamper=tamper)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((CountMismatchError, ManifestError), match="documents"):
        verify(sealed.root)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def with_ids(change: Callable[[list[str]], list[str | None]]) -> Callable[[Layout], None]:
    """Other ids, in a file and under a manifest that fit."""

    def tamper(layout: Layout) -> None:
        table = open_table(layout.documents)
        ids = pa.array(change(table.column("id").to_pylist()), pa.string())
        write_documents(table.set_column(0, "id", ids), layout.documents)

    return tamper


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: [*ids[:3], None, *ids[4:]], "document 3 has no id"),
        (lambda ids: [None for _ in ids], "document 0 has no id"),
        (lambda ids: [*ids[:-1], ids[2]], "documents 2 and 5999 have the same id 'doc-2'"),
        (lambda ids: [ids[0] for _ in ids], "documents 0 and 1 have the same id 'doc-0'"),
    ],
)
def test_documents_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str | None]], message: str
) -> None:
    sealed = make_snapshot(tmp_path, rows=6000, tamper=with_ids(change))
    with pytest.raises(CountMismatchError, match=message):
        verify(sealed.root)


def test_ids_of_equal_hashes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshot.documents.hash", len, raising=False)
    check_ids(pa.chunked_array([["a", "b"], ["c", "dd"]]), "here")
    with pytest.raises(CountMismatchError, match="here: documents 1 and 3 have the same id 'b'"):
        check_ids(pa.chunked_array([["a", "b"], ["c", "b"]]), "here")


def test_a_link_to_a_snapshot_is_not_one(layout: Layout) -> None:
    (layout.root.parent / "links").mkdir()
    link = layout.root.parent / "links" / layout.root.name
    link.symlink_to(layout.root)
    with pytest.raises(UnsafePathError, match="name the folder itself"):
        verify(link)


def test_a_file_that_cannot_be_read_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("snapshot.verify.sha256", broken)
    with pytest.raises(IntegrityError, match=r"cannot be read \(Input/output error\)"):
        verify(layout.root)
