"""Removing: what is wanted, served, pinned or the way back stays; what goes is gone at once."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot import gc
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
    assert found.kept == {a: ("pinned",), b: ("rollback goes there",), c: ("desired",), d: ("serving",)}
    assert registry.rollback("").id == b
    registry.unpin(a)
    assert registry.gc(0).removed == (a, c, d)


def test_a_lease_taken_at_the_last_moment_holds(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    a, *_ = registry.ids()
    monkeypatch.setattr(gc, "is_held", lambda folder: False)
    with hold(registry.layout(a).root):
        found = registry.gc(4)
    assert (found.removed, found.kept[a]) == ((), ("serving",))
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
