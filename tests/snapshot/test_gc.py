"""Removing: what is wanted, served, pinned or the way back stays; what goes is gone at once."""

import errno
import fcntl
import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot import gc, staging
from snapshot.errors import RegistryError
from snapshot.leases import hold
from snapshot.registry import Registry


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    return [make_snapshot(tmp_path / "made", rows=20, seed=seed).root for seed in range(5)]


@pytest.fixture
def registry(tmp_path: Path, made: list[Path]) -> Registry:
    registry = Registry(tmp_path / "registry")
    for folder in made:
        registry.publish(folder)
    return registry


def test_the_latest_stay(registry: Registry) -> None:
    a, b, c, d, e = registry.ids()
    planned = registry.gc(2, dry_run=True)
    assert (planned.removed, planned.kept) == ((a, b, c), {d: ("latest",), e: ("latest",)})
    assert len(registry.ids()) == 5
    assert registry.gc(2, who="ops").removed == (a, b, c)
    assert registry.ids() == [d, e]
    assert [(event.action, event.snapshot, event.who) for event in registry.history()[-3:]] == [
        ("remove", one, "ops") for one in (a, b, c)
    ]
    assert not list(registry.root.glob(".removed*"))
    assert registry.gc(0).removed == (d, e)
    with pytest.raises(RegistryError, match="0 or more"):
        registry.gc(-1)


def test_what_is_wanted_served_pinned_or_the_way_back_stays(registry: Registry) -> None:
    a, b, c, d, e = registry.ids()
    registry.pin(a)
    registry.activate(b, "")
    registry.activate(c, "")
    with hold(registry.layout(d).root):
        found = registry.gc(0)
    assert found.removed == (e,)
    assert found.kept == {a: ("pinned",), b: ("rollback goes there",), c: ("desired",), d: ("open",)}
    assert registry.rollback("").id == b
    registry.unpin(a)
    assert registry.gc(0).removed == (a, c, d)


def test_what_is_open_serves_where_its_service_said_so_last(registry: Registry) -> None:
    a, b, c, *_ = registry.ids()
    for one in (a, c, b):
        registry.record_outcome(one, "served", "", "service")
    with hold(registry.layout(a).root), hold(registry.layout(b).root):
        assert registry.gc(0).kept == {a: ("open",), b: ("serving",)}


def test_a_lease_taken_at_the_last_moment_holds(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    a, *_ = registry.ids()
    monkeypatch.setattr(gc, "is_held", lambda folder: False)
    with hold(registry.layout(a).root):
        found = registry.gc(4)
    assert (found.removed, found.kept[a]) == ((), ("open",))
    assert a in registry.ids()


def test_a_lease_on_the_folder_that_was_published_is_not_one_here(registry: Registry, made: list[Path]) -> None:
    with hold(made[0]):
        assert registry.gc(4).removed == (made[0].name,)


def test_only_what_nobody_else_links_to_is_counted_as_freed(registry: Registry, made: list[Path]) -> None:
    a, *_ = registry.ids()
    shared = registry.gc(4, dry_run=True).freed_bytes
    assert shared == (registry.layout(a).root / "manifest.json").stat().st_size  # the rest is linked to what was published
    whole = sum(path.stat().st_size for path in registry.layout(a).root.rglob("*") if path.is_file())
    shutil.rmtree(made[0])
    assert registry.gc(4).freed_bytes == whole


def test_a_folder_that_is_a_link_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    elsewhere = make_snapshot(tmp_path / "elsewhere", rows=20, seed=9).root
    (registry.root / elsewhere.name).symlink_to(elsewhere)
    assert registry.gc(0).kept == {elsewhere.name: ("not a folder",)}
    assert elsewhere.is_dir()


def test_what_a_kill_left_behind_is_cleaned_up_and_what_somebody_works_on_is_not(registry: Registry) -> None:
    (registry.root / ".incoming-x-1" / "index").mkdir(parents=True)
    (registry.root / ".removed-x-1").mkdir()
    (registry.root / ".CURRENT.1.tmp").write_text("")
    (registry.root / ".unrelated").mkdir()
    busy = registry.root / ".incoming-y-1"
    busy.mkdir()
    descriptor = os.open(busy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert registry.gc(9).leftovers == 2
    assert {path.name for path in registry.root.iterdir() if path.name.startswith(".")} == {".lock", ".unrelated", busy.name}
    os.close(descriptor)
    assert registry.gc(9).leftovers == 1


def make_pulling(registry: Registry, snapshot_id: str, age_seconds: float, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a killed pull leaves; the clock then goes on by ``age_seconds``, since nobody can set the time of a change."""
    part = registry.root / f".pulling-{snapshot_id}" / "parts" / "0"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    now = time.time()
    monkeypatch.setattr(staging.time, "time", lambda: now + age_seconds)
    return part.parents[1]


@pytest.mark.parametrize("age_seconds", [3700.0, -3700.0])
def test_what_a_killed_pull_left_goes_once_nobody_goes_on_with_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, age_seconds: float
) -> None:
    folder = make_pulling(registry, "gone", age_seconds, monkeypatch)
    planned = registry.gc(9, dry_run=True)
    assert (planned.leftovers, planned.freed_bytes, folder.is_dir()) == (1, 1000, True)
    done = registry.gc(9)
    assert (done.leftovers, done.freed_bytes, folder.exists()) == (1, 1000, False)


def test_what_a_pull_may_go_on_with_stays(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_pulling(registry, "wanted", 3000.0, monkeypatch)
    assert registry.gc(0).leftovers == 0
    assert folder.is_dir()


def test_a_pull_at_work_keeps_its_folder_however_old(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_pulling(registry, registry.ids()[0], 1e6, monkeypatch)
    with closing(staging.Held(folder)):
        assert registry.gc(9).leftovers == 0
    assert registry.gc(9).leftovers == 1  # the snapshot is complete
    assert not folder.exists()


def test_a_plan_does_not_need_to_write(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_pulling(registry, "gone", 3700.0, monkeypatch)
    (registry.root / ".lock").unlink()
    assert registry.gc(1, dry_run=True).leftovers == 1
    assert not (registry.root / ".lock").exists()
    assert folder.is_dir()


def test_what_only_somebody_else_may_delete_is_named_and_keeps_nobody_from_publishing(
    registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "rows.npy")

    a = registry.ids()[0]
    with monkeypatch.context() as patched:
        patched.setattr(staging.shutil, "rmtree", forbidden)
        with pytest.raises(RegistryError, match=rf"\.removed-{a}.*run gc as its owner.*2 were removed"):
            registry.gc(3)
        assert a not in registry.ids()
        assert registry.publish(made[0]).id == a
    assert registry.gc(4).leftovers == 2
    assert not list(registry.root.glob(".removed*"))
