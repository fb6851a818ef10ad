"""Publishing what is there already: nothing where it is intact, and mending where it is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import HashMismatchError, SnapshotError
from snapshot.layout import Layout
from snapshot.leases import hold, is_held
from snapshot.pull import PullOptions
from snapshot.push import PushOptions
from snapshot.registry import Registry
from snapshot.remote import pull, push
from snapshot.verify import verify

KILLED = """
import os, sys
from pathlib import Path
import snapshot.publish as p
from snapshot.registry import Registry
copy = p.copy
def torn(*arguments):
    copy(*arguments)
    os.kill(os.getpid(), 9)
p.copy = torn
Registry(Path(sys.argv[1])).publish(Path(sys.argv[2]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    return make_snapshot(tmp_path / "made", rows=20)


@pytest.fixture
def registry(tmp_path: Path, source: Layout) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.publish(source.root)
    return registry


def damage(layout: Layout) -> None:
    """As a bad block does, in a file of its own: those of the registry may be links to what was published."""
    content = bytearray(layout.index.read_bytes())
    content[100] ^= 1
    layout.index.unlink()
    layout.index.write_bytes(content)


def link_a_folder(layout: Layout) -> None:
    layout.golden.rename(layout.root.parent / ".golden")
    layout.golden.symlink_to(layout.root.parent / ".golden")


def garble_manifest(layout: Layout) -> None:
    layout.manifest.unlink()
    layout.manifest.write_text("{")


DAMAGE: list[Callable[[Layout], object]] = [
    damage,
    garble_manifest,
    link_a_folder,
    lambda layout: layout.model.unlink(),
    lambda layout: (layout.root / "extra").write_text("x"),
    lambda layout: layout.signature.symlink_to("/nowhere"),
]


@pytest.mark.parametrize("spoil", DAMAGE)
def test_publishing_again_mends_what_is_damaged(registry: Registry, source: Layout, spoil: Callable[[Layout], object]) -> None:
    there = registry.layout(source.root.name)
    spoil(there)
    with pytest.raises(SnapshotError):
        verify(there.root)
    assert registry.publish(source.root) == verify(there.root)
    assert [(event.action, event.why) for event in registry.history()][1:] == [("publish", "in place of a damaged one")]
    assert not [path.name for path in registry.root.iterdir() if path.name.startswith((".incoming", ".removed"))]


def test_publishing_again_changes_nothing_where_it_is_intact(registry: Registry, source: Layout) -> None:
    before = registry.layout(source.root.name).root.stat()
    registry.publish(source.root)
    assert os.path.samestat(before, registry.layout(source.root.name).root.stat())
    assert len(registry.history()) == 1


def test_who_serves_a_damaged_snapshot_keeps_its_files_and_its_lease(registry: Registry, source: Layout) -> None:
    there = registry.layout(source.root.name)
    damage(there)
    damaged, model = there.index.read_bytes(), there.model.stat()
    with hold(there.root) as lease, there.index.open("rb") as mapped:
        registry.publish(source.root)
        assert mapped.read() == damaged
        assert os.path.samestat(there.model.stat(), model)
        assert is_held(there.root)
        lease.close()
        assert not is_held(there.root)
    assert not os.path.samestat(there.manifest.stat(), source.manifest.stat())  # leases of another registry are not ours


def test_a_signature_made_here_survives_mending(registry: Registry, source: Layout) -> None:
    there = registry.layout(source.root.name)
    there.signature.write_bytes(b"s" * 64)
    damage(there)
    registry.publish(source.root)
    assert there.signature.read_bytes() == b"s" * 64


def test_a_damaged_source_mends_nothing(registry: Registry, source: Layout) -> None:
    there = registry.layout(source.root.name)
    damage(there)
    damage(source)
    with pytest.raises(HashMismatchError):
        registry.publish(source.root)
    assert there.manifest.is_file()


def test_a_kill_while_mending_leaves_what_was_there_and_the_next_try_succeeds(registry: Registry, source: Layout) -> None:
    there = registry.layout(source.root.name)
    damage(there)
    done = subprocess.run([sys.executable, "-c", KILLED, str(registry.root), str(source.root)], check=False)
    assert done.returncode == -9
    with pytest.raises(HashMismatchError):
        verify(there.root)
    registry.publish(source.root)
    verify(there.root)


def test_of_two_who_mend_the_second_changes_nothing(registry: Registry, source: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapshot import publish as publishing

    there, copy = registry.layout(source.root.name), publishing.copy
    damage(there)

    def overtaken(folder: Path, target: Path, instead: dict[str, Path]) -> None:
        monkeypatch.setattr("snapshot.publish.copy", copy)
        registry.publish(source.root)
        copy(folder, target, instead)

    monkeypatch.setattr("snapshot.publish.copy", overtaken)
    registry.publish(source.root)
    verify(there.root)
    assert len(registry.history()) == 2


def test_pulling_mends_what_is_damaged_where_it_is_asked_to(registry: Registry, source: Layout, tmp_path: Path) -> None:
    elsewhere, snapshot_id = Registry(tmp_path / "elsewhere"), source.root.name
    push(registry, str(elsewhere.root), [snapshot_id])
    there = registry.layout(snapshot_id)
    damage(there)
    [untouched] = pull(str(elsewhere.root), registry, [snapshot_id])
    assert not untouched.new
    [mended] = pull(str(elsewhere.root), registry, [snapshot_id], PullOptions(mend=True))
    assert mended.new
    assert mended.manifest == verify(there.root)
    [again] = pull(str(elsewhere.root), registry, [snapshot_id], PullOptions(mend=True))
    assert not again.new


def test_pulling_mends_what_a_service_has_refused(registry: Registry, source: Layout, tmp_path: Path) -> None:
    elsewhere, snapshot_id = Registry(tmp_path / "elsewhere"), source.root.name
    push(registry, str(elsewhere.root), [snapshot_id])
    damage(registry.layout(snapshot_id))
    registry.record_outcome(snapshot_id, "refused", "hash_mismatch")
    [mended] = pull(str(elsewhere.root), registry, [snapshot_id])
    assert mended.new
    verify(registry.root / snapshot_id)


def test_pushing_again_mends_what_is_damaged_in_a_folder(registry: Registry, source: Layout, tmp_path: Path) -> None:
    elsewhere, snapshot_id = Registry(tmp_path / "elsewhere"), source.root.name
    push(registry, str(elsewhere.root), [snapshot_id])
    damage(elsewhere.layout(snapshot_id))
    [sent] = push(registry, str(elsewhere.root), [snapshot_id], PushOptions(again=True))
    assert sent.new
    verify(elsewhere.root / snapshot_id)
    assert contents_differ(registry, elsewhere, snapshot_id) == []


def contents_differ(one: Registry, other: Registry, snapshot_id: str) -> list[str]:
    files = [path for path in (one.root / snapshot_id).rglob("*") if path.is_file()]
    names = [path.relative_to(one.root).as_posix() for path in files]
    return [name for name in names if (one.root / name).read_bytes() != (other.root / name).read_bytes()]
