"""A lease lasts as long as its process, works without the right to write, and is seen by others."""

import errno
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot import leases
from snapshot.errors import UnknownSnapshotError
from snapshot.leases import claimed, hold, is_held

HOLD = """
import sys
from pathlib import Path
from snapshot.leases import hold
lease = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_snapshot(tmp_path, rows=20).root


def test_any_number_may_hold_one_and_the_last_to_go_frees_it(folder: Path) -> None:
    assert not is_held(folder)
    with hold(folder) as first:
        second = hold(folder)
        assert is_held(folder)
        first.close()
        first.close()
        assert is_held(folder)
        second.close()
    assert not is_held(folder)


def test_looking_does_not_take_anything(folder: Path) -> None:
    with hold(folder):
        assert is_held(folder)
        assert is_held(folder)
    assert not is_held(folder)


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_lease_of_another_process_ends_with_it(folder: Path, end: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    with process:
        assert process.stdout.readline() == b"held\n"
        assert is_held(folder)
        with claimed(folder) as free:
            assert not free
        if end == "kill":
            process.kill()
        else:
            process.stdin.close()
        process.wait(10)
    assert not is_held(folder)
    with claimed(folder) as free:
        assert free


def test_a_snapshot_that_is_not_there_cannot_be_held(folder: Path) -> None:
    assert not is_held(folder.with_name("other"))
    assert not is_held(folder / "manifest.json")
    for nothing in (folder.with_name("other"), folder / "manifest.json"):
        with pytest.raises(UnknownSnapshotError, match="cannot be held"):
            hold(nothing)


def test_a_folder_that_is_renamed_stays_held(folder: Path) -> None:
    with hold(folder):
        assert is_held(folder.rename(folder.with_name("elsewhere")))


def test_a_lease_follows_a_manifest_that_was_mended(folder: Path) -> None:
    manifest = folder / "manifest.json"
    content = manifest.read_bytes()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with hold(folder) as lease:
        manifest.unlink()
        lease.renew(folder)
        manifest.write_bytes(content)
        assert not is_held(folder)
        lease.renew(folder)
        lease.renew(folder)
        assert is_held(folder)
    lease.renew(folder)
    assert not is_held(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_lease_needs_no_right_to_write(folder: Path) -> None:
    (folder / "manifest.json").chmod(0o444)
    folder.chmod(0o555)
    with hold(folder):
        assert is_held(folder)


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with hold(folder):
            is_held(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_who_looks_at_the_same_time_is_not_taken_for_one_who_holds(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(lambda _: is_held(folder), range(4000)))
    assert not any(looks)


def test_who_looks_while_another_one_has_lost_the_processor_waits_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_exclusive, looking, go_on, waited = leases._try_exclusive, threading.Event(), threading.Event(), []

    def interrupted(descriptor: int) -> bool:
        """What the manifest is locked by, stands still."""
        had = try_exclusive(descriptor)
        if had and is_manifest(descriptor) and not looking.is_set():
            looking.set()
            assert go_on.wait(10)
        return had

    def is_manifest(descriptor: int) -> bool:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name == "manifest.json"

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 50:
            go_on.set()

    monkeypatch.setattr(leases, "_try_exclusive", interrupted)
    monkeypatch.setattr("snapshot.leases.time.sleep", sleep)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(is_held, folder)
        assert looking.wait(10)
        second = is_held(folder)
        go_on.set()
        assert (first.result(10), second) == (False, False)


def test_nobody_waits_for_a_turn_on_a_mount_that_has_no_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "an exclusive lock needs the right to write")

    def sleep(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr("snapshot.leases.fcntl.flock", flock)
    monkeypatch.setattr("snapshot.leases.time.sleep", sleep)
    assert is_held(folder)


def test_one_who_looks_and_was_stopped_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_TURN_SECONDS", 0.0)
    with hold(folder), leases._in_turn(folder):
        assert is_held(folder)
    with leases._in_turn(folder):
        assert not is_held(folder)
