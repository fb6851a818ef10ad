"""The registry: publishing is all or nothing, activation is one rename, rollback goes back."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import (
    DiskFullError,
    HashMismatchError,
    ManifestError,
    NothingPublishedError,
    ReasonMissingError,
    RegistryError,
    UnknownSnapshotError,
    UnsafePathError,
)
from snapshot.layout import Layout
from snapshot.registry import Desire, Registry

KILLED = """
import os, sys
from pathlib import Path
import snapshot.publish as p
from snapshot.registry import Registry
copy = p.copy
def torn(folder, target, instead):
    copy(folder, target, instead)
    os.kill(os.getpid(), 9)
p.copy = torn
Registry(Path(sys.argv[1])).publish(Path(sys.argv[2]))
"""


@pytest.fixture
def snapshots(tmp_path: Path) -> list[Layout]:
    return [make_snapshot(tmp_path / "made", rows=20 + i, seed=i) for i in range(3)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def publish_all(registry: Registry, snapshots: list[Layout]) -> list[str]:
    return [registry.publish(layout.root).id for layout in snapshots]


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    assert registry.ids() == []
    assert registry.manifests() == []
    assert registry.current() is None
    assert registry.history() == []


def test_published_snapshots_are_listed_but_not_served(registry: Registry, snapshots: list[Layout]) -> None:
    ids = publish_all(registry, snapshots)
    assert {manifest.id for manifest in registry.manifests()} == set(ids)
    assert registry.current() is None
    assert registry.publish(snapshots[0].root).id == ids[0]
    assert [event.action for event in registry.history()] == ["publish"] * 3


def test_activate_and_roll_back_further_than_once(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, c = publish_all(registry, snapshots)
    for snapshot_id in (a, b, c):
        registry.activate(snapshot_id, "new documents", who="ops")
    assert registry.current() == c
    assert registry.rollback("worse", who="ops").id == b
    assert registry.rollback("worse still", who="ops").id == a
    assert registry.current() == a
    with pytest.raises(NothingPublishedError, match="nothing was active before"):
        registry.rollback("once more")
    registry.activate(b, "again")
    assert registry.rollback("no").id == a
    last = registry.history()[-1]
    assert (last.action, last.snapshot, last.previous, last.why) == ("rollback", a, b, "no")


@pytest.mark.parametrize("snapshot_id", ["nothing", "../made", "/etc", "", "a/b", ".incoming-x", "a" * 200])
def test_ids_cannot_leave_the_registry(registry: Registry, snapshots: list[Layout], snapshot_id: str) -> None:
    publish_all(registry, snapshots)
    with pytest.raises(UnknownSnapshotError):
        registry.activate(snapshot_id, "")
    assert registry.current() is None


@pytest.mark.parametrize("name", ["CURRENT", "history.jsonl", "PINS", "pins", "Current"])
def test_a_snapshot_cannot_be_called_like_a_file_of_the_registry(registry: Registry, snapshots: list[Layout], name: str) -> None:
    manifest = json.loads(snapshots[0].manifest.read_text())
    folder = snapshots[0].root.rename(snapshots[0].root.with_name(name))
    Layout(folder).manifest.write_text(json.dumps({**manifest, "id": name}))
    with pytest.raises(UnsafePathError, match="one of the registry's own files"):
        registry.publish(folder)
    assert not registry.root.exists()


def test_ids_that_differ_in_case_only_are_not_both_published(registry: Registry, snapshots: list[Layout]) -> None:
    (snapshot_id, *_) = publish_all(registry, snapshots)
    manifest = json.loads(snapshots[0].manifest.read_text())
    folder = snapshots[0].root.rename(snapshots[0].root.with_name(snapshot_id.lower()))
    Layout(folder).manifest.write_text(json.dumps({**manifest, "id": snapshot_id.lower()}))
    with pytest.raises(UnsafePathError, match="no free name"):
        registry.publish(folder)


def test_a_link_to_a_snapshot_elsewhere_is_listed_as_unreadable_and_not_served(
    registry: Registry, snapshots: list[Layout]
) -> None:
    registry.publish(snapshots[0].root)
    (registry.root / snapshots[1].root.name).symlink_to(snapshots[1].root)
    with pytest.raises(UnsafePathError, match="a symbolic link"):
        registry.activate(snapshots[1].root.name, "")
    assert list(registry.unreadable()) == [snapshots[1].root.name]


def test_a_damaged_folder_is_not_published(registry: Registry, snapshots: list[Layout]) -> None:
    snapshots[0].index.write_bytes(b"")
    with pytest.raises(HashMismatchError):
        registry.publish(snapshots[0].root)
    assert registry.ids() == []


def test_a_kill_while_publishing_leaves_nothing_and_the_next_try_succeeds(registry: Registry, snapshots: list[Layout]) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(registry.root), str(snapshots[0].root)], check=False)
    assert killed.returncode == -9
    assert registry.ids() == []
    snapshot_id = registry.publish(snapshots[0].root).id
    assert registry.ids() == [snapshot_id]
    assert not list(registry.root.glob(".incoming*"))


def test_a_torn_line_of_history_costs_only_itself(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, _ = publish_all(registry, snapshots)
    registry.activate(a, "first")
    with (registry.root / "history.jsonl").open("a") as handle:
        handle.write('{"at": "20')
    registry.activate(b, "second")
    assert [event.why for event in registry.history()][-2:] == ["first", "second"]
    assert registry.rollback("").id == a


def test_an_unreadable_manifest_is_named_and_does_not_hide_the_others(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, c = publish_all(registry, snapshots)
    manifest = registry.layout(a).manifest
    text = manifest.read_text()
    manifest.unlink()  # a hard link: the original must not change
    manifest.write_text(text.replace('"schema_version": 1', '"schema_version": 9'))
    assert {found.id for found in registry.manifests()} == {b, c}
    assert "newer" in registry.unreadable()[a]
    with pytest.raises(ManifestError, match="newer"):
        registry.activate(a, "")


def test_a_registry_that_cannot_be_made_says_so(tmp_path: Path, snapshots: list[Layout]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be written"):
        Registry(tmp_path / "file" / "registry").publish(snapshots[0].root)


def test_what_is_desired_says_who_forced_it_and_why(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, _ = publish_all(registry, snapshots)
    assert registry.desired() is None
    with pytest.raises(ReasonMissingError, match="--why"):
        registry.activate(a, " ", force=True)
    registry.activate(a, "p99 is known to be high", who="ops", force=True)
    desired = registry.desired()
    assert desired is not None
    assert (desired.snapshot, desired.forced, desired.why, desired.who) == (a, True, "p99 is known to be high", "ops")
    assert desired.at == registry.history()[-1].at
    registry.activate(b, "next")
    registry.activate(a, "again, through the gate")
    assert registry.desired() == Desire(a, False, "again, through the gate", *_who_and_when(registry))
    registry.rollback("back")
    desired = registry.desired()
    assert desired is not None
    assert (desired.snapshot, desired.action, desired.forced) == (b, "rollback", False)
    (registry.root / "CURRENT").write_text("by-hand\n")
    assert registry.desired() == Desire("by-hand")


@pytest.mark.parametrize(("why", "kept"), [("worse answers", "worse answers"), ("", "p99 is known to be high")])
def test_a_rollback_has_the_force_with_which_its_target_was_last_wanted(
    registry: Registry, snapshots: list[Layout], why: str, kept: str
) -> None:
    a, b, _ = publish_all(registry, snapshots)
    registry.activate(a, "p99 is known to be high", force=True)
    for _ in range(2):
        registry.activate(b, "next")
        registry.rollback(why)
        desired = registry.desired()
        assert desired is not None
        assert (desired.snapshot, desired.forced, desired.why) == (a, True, kept)
    registry.activate(a, "through the gate")
    registry.activate(b, "next")
    registry.rollback("once more")
    assert registry.desired() == Desire(a, False, "once more", *_who_and_when(registry), "rollback")


def test_a_rollback_may_be_forced_with_a_reason(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, _ = publish_all(registry, snapshots)
    registry.activate(a, "first")
    registry.activate(b, "next")
    with pytest.raises(ReasonMissingError):
        registry.rollback(" ", force=True)
    assert registry.current() == b
    registry.rollback("slow, but right", force=True)
    assert registry.desired() == Desire(a, True, "slow, but right", *_who_and_when(registry), "rollback")


def _who_and_when(registry: Registry) -> tuple[str, str]:
    last = registry.history()[-1]
    return last.who, last.at


def test_services_write_what_came_of_it(registry: Registry, snapshots: list[Layout]) -> None:
    a, b, _ = publish_all(registry, snapshots)
    registry.activate(a, "first")
    assert registry.record_outcome(a, "served", "in 1.5 s", who="service on node-1")
    registry.activate(b, "second")
    assert registry.record_outcome(b, "refused", "golden recall 0.2", who="service on node-1")
    assert [(event.snapshot, event.outcome, event.why) for event in registry.history() if event.action == "outcome"] == [
        (a, "served", "in 1.5 s"),
        (b, "refused", "golden recall 0.2"),
    ]
    assert registry.rollback("refused").id == a


def test_an_outcome_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    assert not Registry(tmp_path / "nothing").record_outcome("a", "served", "", "service")
    assert not (tmp_path / "nothing").exists()


def test_who_waits_too_long_for_the_lock_is_told(registry: Registry, snapshots: list[Layout]) -> None:
    a, *_ = publish_all(registry, snapshots)
    hurried = Registry(registry.root, lock_wait_seconds=0)
    with registry.locked():
        with pytest.raises(RegistryError, match="held by another process"):
            hurried.activate(a, "")
        assert not hurried.record_outcome(a, "served", "")
    hurried.activate(a, "")


def test_a_full_disk_is_called_that(registry: Registry, snapshots: list[Layout], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    snapshot_id = registry.publish(snapshots[0].root).id
    monkeypatch.setattr("snapshot.registry.write_text", full)
    with pytest.raises(DiskFullError, match="make room"):
        registry.activate(snapshot_id, "new documents")
    monkeypatch.setattr("snapshot.publish.copy", full)
    with pytest.raises(DiskFullError, match="make room"):
        registry.publish(snapshots[1].root)


class Overtaken(Registry):
    """Somebody removes every snapshot just before this one has the lock."""

    @contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        with super().locked(make=make):
            for snapshot_id in self.ids():
                shutil.rmtree(self.root / snapshot_id)
            yield


def test_a_pin_is_set_only_on_what_is_there_at_that_moment(registry: Registry, snapshots: list[Layout]) -> None:
    snapshot_id = registry.publish(snapshots[0].root).id
    with pytest.raises(UnknownSnapshotError):
        Overtaken(registry.root).pin(snapshot_id)
    assert registry.pins() == frozenset()
    assert [event.action for event in registry.history()] == ["publish"]


def test_nothing_is_pinned_where_there_is_no_registry(registry: Registry) -> None:
    with pytest.raises(UnknownSnapshotError, match="no such folder"):
        registry.pin("a")
    assert not registry.root.exists()


def test_a_rollback_goes_back_to_what_served(registry: Registry, snapshots: list[Layout]) -> None:
    first, refused, last = (registry.publish(layout.root).id for layout in snapshots[:3])
    for snapshot_id, outcome in ((first, "served"), (refused, "refused"), (last, "served")):
        registry.activate(snapshot_id, "")
        registry.record_outcome(snapshot_id, outcome, "")
    assert registry.before() == first
    registry.activate(refused, "insisted", force=True)
    registry.record_outcome(refused, "served", "")
    registry.record_outcome(refused, "refused", "another service has no memory for it")
    registry.activate(last, "")
    assert registry.before() == refused
    registry.record_outcome(refused, "rolled_back", "late")
    assert registry.before() == first


def test_a_mended_snapshot_is_no_newer_for_that(registry: Registry, snapshots: list[Layout]) -> None:
    first, second = (registry.publish(layout.root).id for layout in snapshots[:2])
    golden = registry.layout(first).golden_queries
    golden.unlink()
    golden.write_text("[]")
    registry.publish(snapshots[0].root)
    assert registry.ids() == [first, second]
    assert registry.gc(keep=1).removed == (first,)
    registry.publish(snapshots[0].root)
    assert registry.ids() == [second, first]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_who_may_write_its_files_is_what_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    """So that a group may keep a registry together; each file that only its maker may write would keep the others out."""
    before = os.umask(umask)
    try:
        registry = Registry(tmp_path / "registry")
        one = registry.publish(make_snapshot(tmp_path / "made").root).id
        registry.activate(one, "a test")
        registry.pin(one)
    finally:
        os.umask(before)
    names = {path.name: path.stat().st_mode & 0o777 for path in registry.root.iterdir() if path.is_file()}
    assert names == dict.fromkeys([".lock", "CURRENT", "PINS", "history.jsonl"], mode)


def test_commands_that_errors_suggest_name_the_registry(registry: Registry, snapshots: list[Layout]) -> None:
    where = f"--registry {registry.root}"
    with pytest.raises(UnknownSnapshotError, match=f"offline run RECIPE {where}$"):
        registry.activate("20200101T000000Z-00000000", "")
    ids = publish_all(registry, snapshots)
    for name in ("nope", "../nope"):
        with pytest.raises(UnknownSnapshotError, match=f"see: python -m snapshot list {where}$") as caught:
            registry.layout(name)
        assert "snapshot activate" not in str(caught.value)
    with pytest.raises(NothingPublishedError, match=f"history {where}$"):
        registry.rollback("")
    (registry.root / "CURRENT").write_text("../nope")
    with pytest.raises(UnknownSnapshotError, match=f"snapshot activate ID {where}$"):
        registry.current()
    assert registry.offered() == ids[-1]


def test_what_services_have_declined_is_not_offered(registry: Registry, snapshots: list[Layout]) -> None:
    ids = publish_all(registry, snapshots)
    registry.record_outcome(ids[-1], "refused", "too slow")
    assert registry.offered() == ids[-2]
    for one in ids[:-1]:
        registry.record_outcome(one, "rolled_back", "errors")
    assert registry.offered() is None
