"""Push and pull against two real S3 servers and a folder: what travels, what is refused, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from object_stores import S3, wanted

from snapshot.errors import (
    HashMismatchError,
    LibraryMissingError,
    ManifestError,
    MissingFileError,
    NothingPublishedError,
    ReasonMissingError,
    RemoteAddressError,
    RemoteConflictError,
    RemoteDeniedError,
    SignatureError,
    UnknownSnapshotError,
    UnsafePathError,
    UnsignedError,
)
from snapshot.history import MOST_REASON
from snapshot.keys import generate
from snapshot.layout import Layout
from snapshot.manifest import read_manifest
from snapshot.pointer import HISTORY, move
from snapshot.pull import PullOptions
from snapshot.push import PushOptions
from snapshot.registry import Registry
from snapshot.remote import Remote, pull, push
from snapshot.seal import Draft, seal
from snapshot.signing import Trust
from snapshot.stores import CURRENT, Store, StoreOptions, open_store
from snapshot.verify import verify

SMALL_CHUNKS = StoreOptions(connections=4, chunk_bytes=32 * 1024, retry_seconds=5, stall_seconds=5)
SHARED_BYTES = 3 << 20


def new_student(registry: Registry, parent: str) -> str:
    """Another snapshot with the same index and documents, and another tower."""
    staging = registry.root / ".staging"
    shutil.copytree(registry.root / parent, staging)
    layout = Layout(staging)
    before = read_manifest(layout.manifest)
    layout.manifest.unlink()
    (layout.report / "student.md").write_text("another one", encoding="utf-8")
    fields = {name: getattr(before, name) for name in Draft.__dataclass_fields__}
    return seal(staging, Draft(**{**fields, "parent": parent})).name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_pushed_is_what_is_pulled(url: str, registry: Registry, other: Registry) -> None:
    [pushed] = push(registry, url)
    [pulled] = pull(url, other, [wanted(registry)])
    assert pushed.new
    assert pulled.new
    assert pulled.manifest == verify(other.root / wanted(registry))
    assert contents(other.root / wanted(registry)) == contents(registry.root / wanted(registry))
    assert [path.name for path in other.root.iterdir() if path.name.startswith(".pulling")] == []
    assert [(event.action, event.snapshot) for event in other.history()] == [("publish", wanted(registry))]


def test_what_is_there_does_not_travel_again(url: str, registry: Registry, other: Registry) -> None:
    [first] = push(registry, url)
    [again] = push(registry, url)
    pull(url, other, [wanted(registry)])
    [pulled] = pull(url, other, [wanted(registry)])
    assert first.sent_bytes + first.copied_bytes == sum(entry.bytes for entry in first.manifest.files.values())
    assert (again.new, again.sent_bytes, again.copied_bytes) == (False, 0, 0)
    assert (pulled.new, pulled.fetched_bytes) == (False, 0)


def test_only_files_that_differ_travel(url: str, registry: Registry, other: Registry) -> None:
    parent = wanted(registry)
    student = new_student(registry, parent)
    push(registry, url, [parent])
    [pushed] = push(registry, url, [student])
    pull(url, other, [parent])
    [pulled] = pull(url, other, [student])
    assert pushed.copied_bytes >= SHARED_BYTES
    assert pushed.sent_bytes < SHARED_BYTES / 4
    assert pulled.linked_bytes >= SHARED_BYTES
    assert pulled.fetched_bytes < 1000
    shared = "report/shared.bin"
    assert (other.root / parent / shared).samefile(other.root / student / shared)
    verify(other.root / student)


def test_large_files_come_in_several_requests(bucket: str, registry: Registry, other: Registry) -> None:
    Remote(bucket, SMALL_CHUNKS).push(registry, wanted(registry))
    pulled = Remote(bucket, SMALL_CHUNKS).pull(wanted(registry), other)
    assert pulled.fetched_bytes == sum(entry.bytes for entry in pulled.manifest.files.values())
    assert contents(other.root / wanted(registry)) == contents(registry.root / wanted(registry))


def test_the_pointer_is_moved_there_and_read_from_there(url: str, registry: Registry, other: Registry) -> None:
    remote = Remote(url)
    assert remote.look().snapshot is None
    with pytest.raises(NothingPublishedError, match="nothing is activated there"):
        pull(url, other)
    push(registry, url)
    seen = remote.look()
    assert remote.activate(wanted(registry), "a better one", "ann") is None
    assert remote.look() != seen
    desire = remote.desired()
    assert desire is not None
    assert (desire.snapshot, desire.why, desire.who, desire.forced) == (wanted(registry), "a better one", "ann", False)
    assert remote.activate(wanted(registry), "no doubt", "ann", force=True) == wanted(registry)
    forced = remote.desired()
    assert forced is not None
    assert forced.forced
    [pulled] = pull(url, other)
    assert pulled.manifest.id == wanted(registry)


def test_only_what_is_there_can_be_activated_there(url: str, registry: Registry) -> None:
    push(registry, url)
    with pytest.raises(UnknownSnapshotError):
        Remote(url).activate("20200101T000000Z-00000000", "")
    with pytest.raises(ReasonMissingError):
        Remote(url).activate(wanted(registry), "", force=True)
    assert Remote(url).look().snapshot is None


class Interrupted(Store):
    """A store to which somebody else activates another snapshot just before, or just after, the pointer is written."""

    def write(self, key: str, content: bytes, mode="overwrite") -> None:
        if key == CURRENT and not self.late:
            move(self.plain, self.theirs, "faster", "bob")
        super().write(key, content, mode)
        if key == CURRENT and self.late:
            self.plain.write(CURRENT, self.theirs.encode())


def interrupted(url: str, theirs: str, *, late: bool) -> Interrupted:
    class Late(Interrupted):
        __slots__ = ("late", "plain", "theirs")

    plain = open_store(url)
    store = Late(url, plain._objects, plain.options)
    store.plain, store.theirs, store.late = plain, theirs, late
    return store


def test_of_two_who_activate_at_once_one_is_told(bucket: str, registry: Registry, place: S3) -> None:
    mine = wanted(registry)
    theirs = new_student(registry, mine)
    push(registry, bucket, [mine, theirs])
    store = interrupted(bucket, theirs, late=place.kind == "rclone")  # where conditions are ignored, only what comes late is seen
    with pytest.raises(RemoteConflictError, match=rf"activated {theirs} meanwhile, and {mine} is not active"):
        move(store, mine, "mine", "ann")
    assert Remote(bucket).look().snapshot == theirs
    assert len(open_store(bucket).sizes(f"{HISTORY}/{mine}")) == 1  # on record in any case


def test_a_long_reason_stops_nobody_who_follows(bucket: str, registry: Registry) -> None:
    push(registry, bucket)
    remote = Remote(bucket)
    remote.activate(wanted(registry), "z" * 70_000, "ann", force=True)
    desire = remote.desired()
    assert desire is not None
    assert (desire.forced, len(desire.why)) == (True, MOST_REASON)


def test_a_record_too_large_for_one_counts_for_nothing(bucket: str, registry: Registry) -> None:
    push(registry, bucket)
    remote = Remote(bucket)
    remote.activate(wanted(registry), "the reason", "ann")
    open_store(bucket).write(f"{HISTORY}/{wanted(registry)}/99999999T000000.000000Z-0.json", b" " * 70_000)
    desire = remote.desired()
    assert desire is not None
    assert desire.why == "the reason"


def test_what_a_store_does_with_conditions_is_found_out(bucket: str, registry: Registry, place: S3) -> None:
    push(registry, bucket)
    assert move(open_store(bucket), wanted(registry), "", None).conditional == (place.kind == "moto")


def test_another_snapshot_of_the_same_id_is_refused(bucket: str, registry: Registry, other: Registry) -> None:
    push(registry, bucket)
    key = f"{wanted(registry)}/manifest.json"
    changed = Layout(registry.root / wanted(registry)).manifest.read_bytes().replace(b'"toy"', b'"you"')
    pull(bucket, other, [wanted(registry)])
    open_store(bucket).write(key, changed)
    for again in (False, True):
        with pytest.raises(RemoteConflictError, match="another snapshot of this id"):
            push(registry, bucket, [wanted(registry)], PushOptions(again=again))
    with pytest.raises(RemoteConflictError, match="remove the one that is wrong"):
        pull(bucket, other, [wanted(registry)])


def test_wrong_bytes_are_refused_by_name_and_repaired_by_pushing_again(bucket: str, registry: Registry, other: Registry) -> None:
    push(registry, bucket)
    name = f"{wanted(registry)}/query_tower/tokenizer.json"
    size = (registry.root / name).stat().st_size
    open_store(bucket).write(name, b"x" * size)
    with pytest.raises(HashMismatchError, match=r"tokenizer\.json: sha256 .*--again"):
        pull(bucket, other, [wanted(registry)])
    assert other.ids() == []
    push(registry, bucket, [wanted(registry)], PushOptions(again=True))
    [pulled] = pull(bucket, other, [wanted(registry)])
    assert pulled.resumed_bytes > 0  # what was right the first time
    verify(other.root / wanted(registry))


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 1000])
def test_a_manifest_that_was_damaged_is_mended_by_pushing_again(
    bucket: str, registry: Registry, other: Registry, damage: bytes
) -> None:
    push(registry, bucket)
    pull(bucket, other, [wanted(registry)])
    open_store(bucket).write(f"{wanted(registry)}/manifest.json", damage)
    with pytest.raises(ManifestError, match=r"manifest\.json: not a manifest .*--again"):
        pull(bucket, Registry(other.root.parent / "third"), [wanted(registry)])
    with pytest.raises(RemoteConflictError, match="--again"):  # of one that was pulled before
        pull(bucket, other, [wanted(registry)])
    with pytest.raises(ManifestError, match=r"manifest\.json: not a manifest .*--again"):
        push(registry, bucket)
    [mended] = push(registry, bucket, [wanted(registry)], PushOptions(again=True))
    assert mended.new
    [pulled] = pull(bucket, Registry(other.root.parent / "third"), [wanted(registry)])
    assert pulled.manifest == registry.read(wanted(registry))


def test_a_file_that_is_missing_or_has_another_size_is_refused_before_anything_travels(
    bucket: str, registry: Registry, other: Registry
) -> None:
    push(registry, bucket)
    store = open_store(bucket)
    name = f"{wanted(registry)}/golden/rows.npy"
    store.write(name, b"")
    with pytest.raises(HashMismatchError, match=r"rows\.npy: 0 bytes"):
        pull(bucket, other, [wanted(registry)])
    store._objects.delete(name)
    with pytest.raises(MissingFileError, match=r"rows\.npy: missing"):
        pull(bucket, other, [wanted(registry)])
    push(registry, bucket)  # brings what is missing, though the manifest is there
    pull(bucket, other, [wanted(registry)])


@pytest.mark.parametrize("path", ["../../evil", "/etc/evil", "golden/../../evil", "a\\b"])
def test_a_manifest_that_leads_out_is_refused(bucket: str, registry: Registry, other: Registry, path: str) -> None:
    push(registry, bucket)
    key = f"{wanted(registry)}/manifest.json"
    manifest = json.loads(Layout(registry.root / wanted(registry)).manifest.read_bytes())
    manifest["files"][path] = {"bytes": 1, "sha256": "0" * 64}
    open_store(bucket).write(key, json.dumps(manifest).encode())
    with pytest.raises(UnsafePathError):
        pull(bucket, other, [wanted(registry)])
    assert other.ids() == []
    assert not list(other.root.parent.rglob("evil"))


def test_a_manifest_of_another_id_is_refused(bucket: str, registry: Registry, other: Registry) -> None:
    push(registry, bucket)
    content = Layout(registry.root / wanted(registry)).manifest.read_bytes()
    open_store(bucket).write("another-id/manifest.json", content)
    with pytest.raises(ManifestError, match="the manifest is that of"):
        pull(bucket, other, ["another-id"])


@pytest.mark.parametrize("current", ["20200101T000000Z-00000000", "../../etc", "CURRENT", "x" * 500])
def test_a_pointer_to_nothing_is_refused(url: str, registry: Registry, other: Registry, current: str) -> None:
    push(registry, url)
    open_store(url).write(CURRENT, current.encode())
    with pytest.raises(UnknownSnapshotError):
        pull(url, other)
    assert other.ids() == []


def test_signatures_travel_also_when_made_later_and_are_checked_before_anything_is_parsed(
    url: str, registry: Registry, other: Registry, tmp_path: Path
) -> None:
    keys = [tmp_path / "ours", tmp_path / "theirs"]
    for key in keys:
        generate(key, key.with_name(f"{key.name}.pub"))
    ours, theirs = (Trust.load([key.with_name(f"{key.name}.pub")], required=True) for key in keys)
    push(registry, url)
    with pytest.raises(UnsignedError):
        pull(url, other, [wanted(registry)], PullOptions(trust=ours))
    registry.sign(wanted(registry), keys[0])
    push(registry, url)
    with pytest.raises(SignatureError, match="not a signature"):
        pull(url, other, [wanted(registry)], PullOptions(trust=theirs))
    pull(url, other, [wanted(registry)], PullOptions(trust=ours))
    verify(other.root / wanted(registry), trust=ours)


def test_a_snapshot_that_is_there_is_held_against_the_keys_and_gets_its_new_signature(
    url: str, registry: Registry, other: Registry, tmp_path: Path
) -> None:
    keys = [tmp_path / "old", tmp_path / "new"]
    for key in keys:
        generate(key, key.with_name(f"{key.name}.pub"))
    old, new = (Trust.load([key.with_name(f"{key.name}.pub")], required=True) for key in keys)
    push(registry, url)
    pull(url, other, [wanted(registry)])
    with pytest.raises(UnsignedError):
        pull(url, other, [wanted(registry)], PullOptions(trust=old))
    for key, trust in zip(keys, (old, new), strict=True):
        registry.sign(wanted(registry), key)
        push(registry, url)
        pull(url, other, [wanted(registry)], PullOptions(trust=trust))
        verify(other.root / wanted(registry), trust=trust)
    with pytest.raises(SignatureError, match="not a signature"):
        pull(url, other, [wanted(registry)], PullOptions(trust=old))


def test_what_can_be_no_signature_travels_neither_way(bucket: str, registry: Registry, other: Registry) -> None:
    push(registry, bucket)
    (registry.root / wanted(registry) / "manifest.sig").symlink_to(registry.root / "history.jsonl")
    with pytest.raises(SignatureError, match="a symbolic link"):
        push(registry, bucket)
    open_store(bucket).write(f"{wanted(registry)}/manifest.sig", b"x" * 63)
    with pytest.raises(SignatureError, match="63 bytes, a signature has 64"):
        pull(bucket, other, [wanted(registry)])
    assert other.ids() == []


def test_a_damaged_snapshot_is_not_pushed(bucket: str, registry: Registry, other: Registry) -> None:
    os.truncate(Layout(registry.root / wanted(registry)).tokenizer, 10)
    with pytest.raises(HashMismatchError):
        push(registry, bucket)
    assert open_store(bucket).sizes(wanted(registry)) == {}


def test_a_local_file_that_a_disk_has_changed_is_fetched_and_not_linked(bucket: str, registry: Registry, other: Registry) -> None:
    parent = wanted(registry)
    student = new_student(registry, parent)
    push(registry, bucket, [parent, student])
    pull(bucket, other, [parent])
    shared = other.root / parent / "report" / "shared.bin"
    shared.write_bytes(b"y" * SHARED_BYTES)
    [pulled] = pull(bucket, other, [student])
    assert pulled.fetched_bytes >= SHARED_BYTES
    verify(other.root / student)


def test_what_was_fetched_in_part_and_is_wrong_is_fetched_again(bucket: str, registry: Registry, other: Registry) -> None:
    push(registry, bucket)
    [entry] = [entry for name, entry in registry.read(wanted(registry)).files.items() if name == "report/shared.bin"]
    parts = other.root / f".pulling-{wanted(registry)}" / "parts"
    parts.mkdir(parents=True)
    (parts / entry.sha256).write_bytes(b"z" * 1000)
    pull(bucket, other, [wanted(registry)])
    verify(other.root / wanted(registry))


def test_wrong_credentials_are_told_from_a_store_out_of_reach(
    bucket: str, registry: Registry, place: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.kind != "rclone":
        pytest.skip("moto checks no signatures")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(RemoteDeniedError, match="check credentials"):
        push(registry, bucket)


def test_addresses_that_cannot_be_used_are_named(bucket: str, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteAddressError, match="no such bucket"):
        push(registry, "s3://not-there/prefix")
    with pytest.raises(RemoteAddressError, match="not a remote registry"):
        push(registry, "ftp://host/prefix")
    for address in (
        "s3://bucket/prefix?token=secret",
        "s3://bucket/prefix#part",
        "file:///folder?x",
        "s3://bucket?",
        "file:///a#",
    ):
        with pytest.raises(RemoteAddressError, match="query or fragment") as caught:
            push(registry, address)
        assert "secret" not in str(caught.value)
    with pytest.raises(RemoteAddressError, match="no such folder"):
        pull("/not/there", registry, ["x"])
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(RemoteAddressError, match="AWS_ALLOW_HTTP"):
        push(registry, bucket)


def test_without_the_library_the_extra_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(LibraryMissingError, match=r"pip install 'scalingnote\[remote\]'"):
        push(registry, "s3://bucket/prefix")
