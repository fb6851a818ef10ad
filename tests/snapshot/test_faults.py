"""Kills, full disks, read-only mounts, several writers, clocks that go back: the old state or the new one, never half."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import RegistryError, SnapshotError, UnknownSnapshotError
from snapshot.history import happened
from snapshot.layout import Layout
from snapshot.leases import hold, is_held
from snapshot.registry import Desire, Registry
from snapshot.verify import verify

TESTS = Path(__file__).parents[1]
_PAGE_BYTES = 4096
"""What a tmpfs gives to a file at a time."""
EVERY_STEP = """
import itertools, os, shutil, sys
from pathlib import Path
from breaking import full_at, killed_at
from snapshot.errors import RegistryError
from snapshot.registry import Registry
from snapshot.verify import verify

base, made, root, how, what = (*map(Path, sys.argv[1:4]), *sys.argv[4:])
a, b = Registry(base).ids()
new = made.name
acts = {
    "publish": lambda: Registry(root).publish(made),
    "activate": lambda: Registry(root).activate(b, "next", force=True),
    "rollback": lambda: Registry(root).rollback("back"),
    "pin": lambda: Registry(root).pin(a),
    "gc": lambda: Registry(root).gc(0),
}

def broken(number):
    return killed_at(number, acts[what]) if how == "killed" else full_at(number, acts[what], RegistryError)

def state():
    registry = Registry(root)
    for one in registry.ids():
        verify(registry.layout(one).root)
    return registry.ids(), registry.current(), registry.pins(), registry.before()

def restart():
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root)

restart()
old = state()
acts[what]()
done = state()
for number in itertools.count(1):
    restart()
    failed = broken(number)
    after = state()
    assert after[0] in (old[0], done[0]) or what == "gc" and set(done[0]) < set(after[0]) < set(old[0]), (number, after)
    assert after[1] in (old[1], done[1]), (number, after)
    assert after[2] in (old[2], done[2]), (number, after)
    assert after[3] == (old[3] if after[1] == old[1] else done[3]), (number, after)
    if not failed:
        assert after == done
        break
    if what == "rollback" and after[1] == done[1]:
        continue
    acts[what]()
    assert state() == done, (number, state(), done)
    if what == "activate":
        assert Registry(root).desired().forced
    Registry(root).gc(9)
    left = {path.name for path in root.iterdir()} - {".lock", "CURRENT", "PINS", "history.jsonl", *done[0]}
    assert not left, (number, left)
print(number)
"""
ACTIVATE = """
import sys
from pathlib import Path
from snapshot.registry import Registry
registry = Registry(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(20):
    registry.activate(sys.argv[2 + number % 2], str(number), who=sys.argv[4])
"""
PUBLISH = """
import sys
from pathlib import Path
from snapshot.registry import Registry
sys.stdin.readline()
for folder in sys.argv[2:]:
    Registry(Path(sys.argv[1])).publish(Path(folder))
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    return [make_snapshot(tmp_path / "made", rows=20, seed=seed).root for seed in range(3)]


@pytest.fixture
def registry(tmp_path: Path, made: list[Path]) -> Registry:
    """Two published, the first desired."""
    registry = Registry(tmp_path / "registry")
    for folder in made[:2]:
        registry.publish(folder)
    registry.activate(made[0].name, "first")
    return registry


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@contextmanager
def mounted(target: Path, *options: str) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("how", ["killed", "full"])
@pytest.mark.parametrize(("what", "steps"), [("publish", 30), ("activate", 4), ("rollback", 4), ("pin", 4), ("gc", 2)])
def test_whatever_step_fails_the_old_state_holds_or_the_new_one(
    registry: Registry, made: list[Path], tmp_path: Path, how: str, what: str, steps: int
) -> None:
    if what == "rollback":
        registry.activate(made[1].name, "second")
    command = python(EVERY_STEP, registry.root, made[2], tmp_path / "tried", how, what)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= steps


def run_at_once(*commands: list[str]) -> None:
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_two_activators_at_once_leave_one_consistent_history(registry: Registry, made: list[Path]) -> None:
    a, b = made[0].name, made[1].name
    run_at_once(python(ACTIVATE, registry.root, a, b, "x"), python(ACTIVATE, registry.root, b, a, "y"))
    events = [event for event in registry.history() if event.action == "activate"]
    assert len(events) == 41
    assert [event.previous for event in events[1:]] == [event.snapshot for event in events[:-1]]
    assert registry.current() == events[-1].snapshot
    assert all(happened(registry.history(), registry.current()))
    for who in ("x", "y"):
        assert [event.why for event in events if event.who == who] == [str(number) for number in range(20)]


def test_two_publishers_at_once_bring_in_each_snapshot_once(tmp_path: Path, made: list[Path]) -> None:
    registry = Registry(tmp_path / "registry")
    run_at_once(
        python(PUBLISH, registry.root, *made), python(PUBLISH, registry.root, *made), python(PUBLISH, registry.root, made[1])
    )
    assert sorted(registry.ids()) == sorted(folder.name for folder in made)
    for snapshot_id in registry.ids():
        verify(registry.layout(snapshot_id).root)
    assert [event.action for event in registry.history()] == ["publish"] * 3
    assert not [path for path in registry.root.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def fill(ballast: Path, history: Path) -> None:
    """Write until the disk is full, and the last page of the history too, which has room for a few lines."""
    with history.open("ab") as handle:
        handle.write(b"\n" * (-history.stat().st_size % _PAGE_BYTES))
    with ballast.open("wb", buffering=0) as handle, suppress(OSError):
        while True:
            handle.write(bytes(_PAGE_BYTES))


@as_root
def test_a_disk_that_is_really_full(tmp_path: Path, made: list[Path]) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "none") as root:
        registry = Registry(root)
        with pytest.raises(RegistryError, match=r"No space left on device\); make room"):
            [registry.publish(folder) for folder in made]
        there = registry.ids()
        for snapshot_id in there:
            verify(registry.layout(snapshot_id).root)
        assert not [path for path in root.iterdir() if path.name.startswith(".incoming")]
        fill(root / "ballast", root / "history.jsonl")
        before = registry.history()
        if there:
            with pytest.raises(RegistryError, match="make room"):
                registry.activate(there[0], "no room")
            assert registry.current() is None
        assert not registry.record_outcome("a", "served", "no room")
        assert registry.history() == before
        (root / "ballast").unlink()
        assert registry.record_outcome("a", "served", "")


@as_root
def test_a_read_only_mount_serves_and_refuses_to_be_written(registry: Registry, made: list[Path], tmp_path: Path) -> None:
    a = made[0].name
    with mounted(tmp_path / "ro", "--bind", str(registry.root)) as root:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        mount = Registry(root)
        assert mount.current() == a
        desired = mount.desired()
        assert isinstance(desired, Desire)
        assert desired.why == "first"
        verify(mount.layout(a).root)
        with hold(mount.layout(a).root):
            assert is_held(registry.layout(a).root)
        for act in (
            lambda: mount.activate(made[1].name, ""),
            lambda: mount.rollback(""),
            lambda: mount.pin(a),
            lambda: mount.gc(1),
            lambda: mount.publish(made[2]),
        ):
            with pytest.raises(RegistryError, match="Read-only file system"):
                act()
        assert not mount.record_outcome(a, "served", "")
        assert mount.gc(0, dry_run=True).removed == (made[1].name,)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"nothing-of-that-name\n", None),
        (b"../made", UnknownSnapshotError),
        (b"/etc/passwd", UnknownSnapshotError),
        (b"two ids", UnknownSnapshotError),
        (b"x" * 1_000_000, UnknownSnapshotError),
        (b"\x00\xff", RegistryError),
        (a_pipe, RegistryError),
        (a_link, RegistryError),
        (a_folder, RegistryError),
    ],
)
def test_a_current_that_names_nothing_is_named_and_activating_repairs_it(
    registry: Registry, made: list[Path], content: object, error: type[SnapshotError] | None
) -> None:
    current = registry.root / "CURRENT"
    current.unlink()
    if callable(content):
        content(current)
    else:
        assert isinstance(content, bytes)
        current.write_bytes(content)
    if error is None:
        assert registry.current() == "nothing-of-that-name"
        assert registry.gc(9).removed == ()
    else:
        with pytest.raises(error):
            registry.current()
        with pytest.raises(error):
            registry.desired()
        with pytest.raises(error):
            registry.gc(0)
    assert len(registry.manifests()) == 2
    if content is a_folder:
        with pytest.raises(RegistryError, match="cannot be written"):
            registry.activate(made[1].name, "repair")
        current.rmdir()
    registry.activate(made[1].name, "repair")
    assert registry.current() == made[1].name
    assert registry.rollback("back").id == made[0].name


def rename_snapshot(folder: Path, snapshot_id: str) -> Path:
    manifest = json.loads(Layout(folder).manifest.read_text())
    Layout(folder).manifest.write_text(json.dumps({**manifest, "id": snapshot_id, "created_at": "2040-01-01T00:00:00Z"}))
    return folder.rename(folder.with_name(snapshot_id))


def test_a_clock_that_was_set_back_confuses_nobody(tmp_path: Path, made: list[Path]) -> None:
    registry = Registry(tmp_path / "registry")
    order = ["20400101T000000Z-late", "20200101T000000Z-early", "20300101T000000Z-mid"]
    for folder, snapshot_id in zip(made, order, strict=True):
        registry.activate(registry.publish(rename_snapshot(folder, snapshot_id)).id, "")
    assert registry.ids() == order
    history = registry.root / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    times = [f"20{40 - number}-01-01T00:00:00+00:00" for number in range(len(lines))]
    history.write_text("".join(json.dumps({**line, "at": at}) + "\n" for line, at in zip(lines, times, strict=True)))
    assert registry.rollback("").id == order[1]
    assert registry.rollback("").id == order[0]
    registry.activate(order[2], "")
    assert registry.gc(1).removed == (order[1],)
    listed = subprocess.run(
        [sys.executable, "-m", "snapshot", "list", "--json", "--registry", str(registry.root)], capture_output=True, check=True
    )
    rows = json.loads(listed.stdout)["snapshots"]
    assert [row["id"] for row in rows] == [order[0], order[2]]
    assert rows[0]["age_seconds"] < 0
