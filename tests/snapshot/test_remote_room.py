"""Push and pull where a disk has no room, and as commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from object_stores import wanted
from typer.testing import CliRunner

from snapshot.__main__ import app
from snapshot.errors import (
    DiskFullError,
    ReasonMissingError,
    RemoteAddressError,
)
from snapshot.progress import NullProgress
from snapshot.pull import PullOptions
from snapshot.push import PushOptions
from snapshot.registry import Registry
from snapshot.remote import Remote, pull, push


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where it can be mounted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_found_before_anything_travels(bucket: str, registry: Registry, tiny_disk: Path) -> None:
    push(registry, bucket)
    with pytest.raises(DiskFullError, match="are free; make room"):
        pull(bucket, Registry(tiny_disk / "registry"), [wanted(registry)])


def test_a_disk_that_becomes_full_meanwhile_is_left_as_it_was(
    bucket: str, registry: Registry, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, bucket)
    plenty = shutil.disk_usage("/")._replace(free=1 << 40)
    monkeypatch.setattr("snapshot.pull.shutil.disk_usage", lambda _: plenty)
    target = Registry(tiny_disk / "registry")
    with pytest.raises(DiskFullError, match="cannot be written"):
        pull(bucket, target, [wanted(registry)])
    assert target.ids() == []
    assert sum(path.stat().st_size for path in target.root.rglob("*") if path.is_file()) == 0


def test_the_commands_say_what_was_made_where_and_what_is_next(url: str, registry: Registry, tmp_path: Path) -> None:
    here, there = str(registry.root), str(tmp_path / "there")
    pushed = CliRunner().invoke(app, ["push", url, "--registry", here, "--activate", "--why", "better"])
    assert pushed.exit_code == 0, pushed.output
    assert f"{wanted(registry)} is desired in {url} now" in pushed.stdout.splitlines()[-1]
    pulled = CliRunner().invoke(app, ["pull", url, "--registry", there])
    assert f"python -m snapshot activate {wanted(registry)} --registry {there}" in pulled.stdout.splitlines()[-1]
    assert Registry(Path(there)).current() is None
    again = CliRunner().invoke(app, ["pull", url, "--registry", there, "--activate", "--json"])
    assert json.loads(again.stdout)["new"] is False
    assert Registry(Path(there)).current() == wanted(registry)
    described = CliRunner().invoke(app, ["push", wanted(registry), url, "--registry", here, "--json"])
    assert json.loads(described.stdout)[0] | {"sent_bytes": 0} == json.loads(described.stdout)[0]


def test_commands_refuse_what_they_cannot_do_before_anything_travels(registry: Registry, tmp_path: Path) -> None:
    here = str(registry.root)
    forced = CliRunner().invoke(app, ["push", str(tmp_path / "x"), "--registry", here, "--force"])
    assert isinstance(forced.exception, ReasonMissingError)
    forgotten = CliRunner().invoke(app, ["push", wanted(registry), "--registry", here])
    assert isinstance(forgotten.exception, RemoteAddressError)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "command",
    [
        "push ID SNAPSHOT --registry REGISTRY",
        "pull REGISTRY --registry SNAPSHOT",
        "pull SNAPSHOT --registry REGISTRY",
        "list --registry SNAPSHOT",
        "gc --keep 0 --registry SNAPSHOT",
        "pin ID --registry SNAPSHOT",
    ],
)
def test_a_snapshot_is_not_taken_for_a_registry(registry: Registry, command: str) -> None:
    snapshot_id = wanted(registry)
    folder = registry.root / snapshot_id
    before = sorted(folder.rglob("*"))
    words = {"ID": snapshot_id, "SNAPSHOT": str(folder), "REGISTRY": str(registry.root)}
    refused = CliRunner().invoke(app, [words.get(word, word) for word in command.split()])
    assert refused.exit_code != 0
    assert f"{folder}: a snapshot, and no registry" in str(refused.exception)
    assert sorted(folder.rglob("*")) == before


class Collecting(NullProgress):
    """Somebody collects garbage where a transfer reads, just as it begins."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.kept: dict[str, tuple[str, ...]] = {}

    def begin(self, what: str, total_bytes: int) -> None:
        self.kept = self.registry.gc(0).kept


def test_gc_leaves_alone_what_is_being_pushed(url: str, registry: Registry) -> None:
    old = make_snapshot(registry.root, seed=5).root.name
    collecting = Collecting(registry)
    Remote(url).push(registry, old, PushOptions(progress=collecting))
    assert collecting.kept[old] == ("open",)
    assert registry.gc(0).removed == (old,)


def test_gc_leaves_alone_what_is_being_pulled_from_a_folder(registry: Registry, tmp_path: Path) -> None:
    old = make_snapshot(registry.root, seed=5).root.name
    collecting = Collecting(registry)
    Remote(str(registry.root)).pull(old, Registry(tmp_path / "other"), PullOptions(progress=collecting))
    assert collecting.kept[old] == ("open",)
    assert registry.gc(0).removed == (old,)
