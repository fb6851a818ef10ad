"""An object store that is slow, flaky or gone, and processes that are killed in the middle of a transfer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import Chaos, chaos_before
from make_snapshot import make_snapshot
from object_stores import S3, moto, rclone, use
from obstore.exceptions import GenericError

from snapshot.errors import RemoteError, RemoteUnavailableError, TransferCancelledError
from snapshot.layout import Layout
from snapshot.pull import PullOptions
from snapshot.registry import Registry
from snapshot.remote import Remote
from snapshot.stores import StoreOptions, open_store
from snapshot.verify import verify

QUICK = StoreOptions(connections=4, chunk_bytes=1 << 20, stall_seconds=0.5, retry_seconds=0.5)
PATIENT = StoreOptions(connections=4, chunk_bytes=1 << 20)
LARGE = "report/large.bin"
LARGE_BYTES = 14 << 20


@pytest.fixture(scope="module", params=["moto", "rclone"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with moto() if request.param == "moto" else rclone(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture
def chaos(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    with chaos_before(server.port) as proxy:
        use(monkeypatch, server, proxy.port)
        yield proxy


@pytest.fixture
def url() -> str:
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry whose snapshot has one large file among small ones."""

    def add_large(layout: Layout) -> None:
        layout.report.mkdir()
        (layout.root / LARGE).write_bytes(os.urandom(LARGE_BYTES))

    registry = Registry(tmp_path_factory.mktemp("large"))
    registry.activate(make_snapshot(registry.root, tamper=add_large).root.name, "for a test", "tests")
    return registry


def only(registry: Registry) -> str:
    [snapshot_id] = registry.ids()
    return snapshot_id


def pushed_directly(server: S3, url: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, chaos: Chaos) -> None:
    """Push past the proxy, and go through it from then on."""
    use(monkeypatch, server)
    Remote(url).push(registry, only(registry))
    use(monkeypatch, server, chaos.port)


def resets(chaos: Chaos) -> None:
    chaos.reset_first = 3


def truncations(chaos: Chaos) -> None:
    chaos.truncate_first = 3


def delays(chaos: Chaos) -> None:
    chaos.delay_seconds = 0.02


@pytest.mark.parametrize("spoil", [resets, truncations, delays])
def test_a_slow_or_flaky_store_is_got_along_with(
    chaos: Chaos, url: str, tmp_path: Path, other: Registry, spoil: Callable[[Chaos], None]
) -> None:
    registry = Registry(tmp_path / "registry")
    make_snapshot(registry.root)
    spoil(chaos)
    Remote(url, PATIENT).push(registry, only(registry))
    spoil(chaos)
    Remote(url, PATIENT).pull(only(registry), other)
    verify(other.root / only(registry))


def gone(chaos: Chaos) -> None:
    chaos.gone = True


def black_hole(chaos: Chaos) -> None:
    chaos.black_hole = True


@pytest.mark.parametrize("spoil", [gone, black_hole])
def test_a_store_that_is_gone_is_said_to_be_in_time(
    chaos: Chaos, url: str, tmp_path: Path, other: Registry, spoil: Callable[[Chaos], None]
) -> None:
    registry = Registry(tmp_path / "registry")
    make_snapshot(registry.root)
    spoil(chaos)
    begun = time.monotonic()
    with pytest.raises(RemoteUnavailableError, match="check endpoint and network"):
        Remote(url, QUICK).push(registry, only(registry))
    with pytest.raises(RemoteUnavailableError):
        Remote(url, QUICK).pull(only(registry), other)
    chaos.black_hole = False
    assert time.monotonic() - begun < 4 * (QUICK.retry_seconds + QUICK.stall_seconds)
    assert other.ids() == []


def test_what_arrived_before_the_store_went_away_is_kept(
    chaos: Chaos, server: S3, url: str, large: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed_directly(server, url, large, monkeypatch, chaos)

    class Cut:
        def begin(self, what: str, total_bytes: int) -> None: ...

        def advance(self, count: int) -> None:
            chaos.gone = chaos.black_hole = chaos.received_bytes > LARGE_BYTES / 2

    with pytest.raises(RemoteError):
        Remote(url, QUICK).pull(only(large), other, PullOptions(progress=Cut()))
    chaos.gone = chaos.black_hole = False
    kept = sum(path.stat().st_size for path in (other.root / f".pulling-{only(large)}").rglob("*") if path.is_file())
    pulled = Remote(url, PATIENT).pull(only(large), other)
    assert pulled.resumed_bytes > 0
    assert pulled.fetched_bytes <= LARGE_BYTES * 1.02 - pulled.resumed_bytes + kept
    verify(other.root / only(large))


def killed_when(command: list[str], ready: Callable[[], bool]) -> None:
    """Start a command and kill it, with no chance to tidy up, as soon as ``ready`` says so."""
    process = subprocess.Popen([sys.executable, "-m", "snapshot", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_pull_goes_on_where_it_was(
    chaos: Chaos, server: S3, url: str, large: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed_directly(server, url, large, monkeypatch, chaos)
    work = other.root / f".pulling-{only(large)}"

    def half_there() -> bool:
        with suppress(FileNotFoundError):  # a part is renamed between the listing and the look
            return sum(path.stat().st_size for path in work.glob("parts/*")) > LARGE_BYTES / 3
        return False

    chaos.delay_seconds = 0.002
    killed_when(["pull", url, only(large), "--registry", str(other.root)], half_there)
    assert other.ids() == []
    chaos.delay_seconds = 0.0
    chaos.requests.clear()
    chaos.received_bytes = 0
    pulled = Remote(url).pull(only(large), other)
    verify(other.root / only(large))
    assert pulled.resumed_bytes > LARGE_BYTES / 3
    assert chaos.asked("GET", "index.faiss") == 0  # complete before
    if server.kind == "moto":  # rclone sends a file from its beginning only
        assert chaos.received_bytes < LARGE_BYTES * 0.7
    assert not work.exists()


def test_a_killed_push_does_not_send_again_what_is_there(chaos: Chaos, url: str, large: Registry, other: Registry) -> None:
    snapshot_id = only(large)
    small = [name for name in large.read(snapshot_id).files if name != LARGE]
    chaos.delay_seconds = 0.01
    killed_when(["push", snapshot_id, url, "--registry", str(large.root)], lambda: chaos.sent_bytes > LARGE_BYTES / 4)
    chaos.delay_seconds = 0.0
    there = open_store(url).sizes(snapshot_id)
    assert set(there) == {f"{snapshot_id}/{name}" for name in small}  # no manifest, and no half file
    chaos.requests.clear()
    pushed = Remote(url).push(large, snapshot_id)
    assert pushed.kept_bytes == sum(there.values())
    assert [name for name in small if chaos.asked("PUT", name)] == []
    Remote(url).pull(snapshot_id, other)
    verify(other.root / snapshot_id)


def test_two_who_pull_at_once_both_have_it(url: str, chaos: Chaos, large: Registry, other: Registry) -> None:
    Remote(url).push(large, only(large))
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(Remote(url).pull(only(large), other).new)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [False, False, True]
    verify(other.root / only(large))


def test_two_who_push_at_once_both_succeed(url: str, chaos: Chaos, tmp_path: Path, other: Registry) -> None:
    registry = Registry(tmp_path / "registry")
    make_snapshot(registry.root)
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(Remote(url).push(registry, only(registry)).manifest.id)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [only(registry)] * 3
    Remote(url).pull(only(registry), other)
    verify(other.root / only(registry))


def test_a_pull_that_is_not_wanted_any_more_ends(
    chaos: Chaos, server: S3, url: str, large: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed_directly(server, url, large, monkeypatch, chaos)
    with pytest.raises(TransferCancelledError):
        Remote(url, QUICK).pull(only(large), other, PullOptions(cancelled=lambda: chaos.received_bytes > 1 << 20))
    assert other.ids() == []


class Closing:
    """Obstore's side of a connection that is closed just as it is taken from the pool."""

    def __init__(self, sign: str, times: int) -> None:
        self.sign, self.times, self.puts = sign, times, 0

    def put(self, key: str, content: bytes, **_: object) -> None:
        self.puts += 1
        if self.puts <= self.times:
            raise GenericError(f"HTTP error: error sending request\n{self.sign}")


@pytest.mark.parametrize(("sign", "puts"), [("connection was not ready", 3), ("connection closed before message completed", 1)])
def test_only_a_request_that_was_never_sent_is_written_again(tmp_path: Path, sign: str, puts: int) -> None:
    closing = Closing(sign, 2)
    store = replace(open_store(str(tmp_path)), _objects=closing)
    if puts == 1:
        with pytest.raises(RemoteUnavailableError, match="error sending request"):
            store.write("key", b"content")
    else:
        store.write("key", b"content")
    assert closing.puts == puts
