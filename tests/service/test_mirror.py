"""Following a registry elsewhere: what is wanted there is brought here, and nothing that serves is lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from chaos import Chaos, chaos_before
from make_snapshot import make_snapshot
from manual_clock import ManualClock
from object_stores import S3, moto, use
from prometheus_client import CollectorRegistry
from serving import client_of
from structlog.testing import capture_logs

from service.cache_room import Room
from service.cores import ThreadPlan
from service.errors import SettingsError
from service.metrics import Metrics
from service.mirror import WHO, Mirror, MirrorOptions, MirrorState
from service.settings import Settings, load_settings
from snapshot import leases
from snapshot.history import History
from snapshot.layout import Layout
from snapshot.pull import _SPARE_BYTES
from snapshot.registry import Registry
from snapshot.remote import Remote
from snapshot.stores import CURRENT, StoreOptions, open_store

QUICK = StoreOptions(connections=2, stall_seconds=0.3, retry_seconds=0.5)
PADDING = 200_000


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with moto() as running:
        yield running


@pytest.fixture
def chaos(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    with chaos_before(server.port) as proxy:
        use(monkeypatch, server, proxy.port)
        yield proxy


@pytest.fixture
def source(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "source")


@pytest.fixture
def here(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "here")


class Scene:
    """A remote registry, and a mirror of it."""

    def __init__(self, source: Registry, here: Registry) -> None:
        self.source, self.here = source, here
        self.remote = Remote(f"s3://bucket/{uuid.uuid4().hex}", QUICK)
        self.made = 0
        self.serving: str | None = None
        self.clock = ManualClock()
        self.metrics = Metrics(CollectorRegistry(), Settings(registry=here.root), ThreadPlan(2, 2, 1))

    def want(self, snapshot_id: str | None = None, why: str = "newer", *, force: bool = False) -> str:
        """Make a snapshot unless one is named, and declare it there."""
        if snapshot_id is None:
            self.made += 1
            snapshot_id = make_snapshot(self.source.root, seed=self.made, tamper=self._pad).root.name
            self.remote.push(self.source, snapshot_id)
        self.remote.activate(snapshot_id, why, "ann", force=force)
        return snapshot_id

    def _pad(self, layout: Layout) -> None:
        layout.report.mkdir()
        (layout.report / "padding.bin").write_bytes(self.made.to_bytes(4, "big") * (PADDING // 4))

    def mirror(self, limit_bytes: int = 1 << 40) -> Mirror:
        room = Room(self.here, limit_bytes, WHO, lambda: self.serving)
        return Mirror(self.remote, self.here, room, MirrorOptions(), self.metrics.remote, clock=self.clock)

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"scalingnote_remote_{name}", labels)
        assert value is not None, name
        return value


@pytest.fixture
def scene(chaos: Chaos, source: Registry, here: Registry) -> Scene:
    return Scene(source, here)


def test_what_is_wanted_there_is_brought_and_wanted_here(scene: Scene) -> None:
    mirror = scene.mirror()
    assert mirror.step() is MirrorState.FOLLOWING
    assert scene.here.current() is None
    first = scene.want(why="fresher documents")
    assert mirror.step() is MirrorState.FOLLOWING
    desire = scene.here.desired()
    assert desire is not None
    assert (desire.snapshot, desire.who, desire.forced) == (first, WHO, False)
    assert "fresher documents" in desire.why
    assert "ann" in desire.why
    assert scene.metric("fetched_bytes_total") > PADDING
    assert scene.metric("last_success_timestamp_seconds") > 0
    assert scene.metric("cache_bytes") > PADDING


def test_a_force_there_is_one_here(scene: Scene) -> None:
    scene.want(why="I know better", force=True)
    scene.mirror().step()
    desire = scene.here.desired()
    assert desire is not None
    assert desire.forced


def test_a_force_there_for_what_is_wanted_here_already_is_one_here(scene: Scene) -> None:
    mirror = scene.mirror()
    only = scene.want()
    mirror.step()
    scene.want(only, "the gate is wrong", force=True)
    mirror.step()
    desire = scene.here.desired()
    assert desire is not None
    assert (desire.snapshot, desire.forced) == (only, True)
    events = len(scene.here.history())
    mirror.step()
    scene.mirror().step()  # a new process
    assert len(scene.here.history()) == events, "once said, once declared"


def test_a_force_there_while_nobody_followed_is_one_here(scene: Scene) -> None:
    only = scene.want()
    scene.mirror().step()
    scene.want(only, "the gate is wrong", force=True)
    scene.mirror().step()
    desire = scene.here.desired()
    assert desire is not None
    assert desire.forced


def test_going_back_there_is_going_back_here(scene: Scene) -> None:
    mirror = scene.mirror()
    first = scene.want()
    mirror.step()
    scene.want()
    mirror.step()
    scene.want(first, "worse answers")
    mirror.step()
    desire = scene.here.desired()
    assert desire is not None
    assert (desire.snapshot, desire.action) == (first, "rollback")


@pytest.mark.parametrize("outcomes", [("refused",), ("served", "rolled_back")])
def test_going_back_there_goes_past_what_the_service_here_declined(
    scene: Scene, outcomes: tuple[Literal["served", "refused", "rolled_back"], ...]
) -> None:
    mirror = scene.mirror()
    served = scene.want()
    mirror.step()
    scene.here.record_outcome(served, "served", "", "service")
    for _ in range(2):
        declined = scene.want()
        mirror.step()
        for outcome in outcomes:
            scene.here.record_outcome(declined, outcome, "a test", "service")
    scene.want(served, "neither is any good")
    mirror.step()
    desire = scene.here.desired()
    assert desire is not None
    assert (desire.snapshot, desire.action) == (served, "rollback"), "the gate does not ask how much it is like the declined one"


def test_a_rollback_here_goes_past_what_was_declined_and_stays_until_the_pointer_there_moves(scene: Scene) -> None:
    mirror = scene.mirror()
    served = scene.want()
    mirror.step()
    scene.here.record_outcome(served, "served", "", "service")
    refused = scene.want()
    mirror.step()
    scene.here.record_outcome(refused, "refused", "a test", "service")
    scene.want()
    mirror.step()
    scene.here.rollback("worse answers", "an operator")
    mirror.step()
    scene.mirror().step()  # a new process
    assert scene.here.current() == served


def test_what_is_wanted_here_meanwhile_stays_until_the_pointer_there_moves(scene: Scene) -> None:
    mirror = scene.mirror()
    first = scene.want()
    mirror.step()
    second = scene.want()
    mirror.step()
    scene.here.rollback("the service went back by itself", "watch")
    mirror.step()
    assert scene.here.current() == first
    scene.mirror().step()  # a new process
    assert scene.here.current() == first
    scene.want(second, "repaired")
    mirror.step()
    assert scene.here.current() == second


def test_a_store_that_is_gone_leaves_what_is_here_is_counted_and_logged_once(scene: Scene, chaos: Chaos) -> None:
    mirror = scene.mirror()
    first = scene.want()
    mirror.step()
    at = scene.metric("last_success_timestamp_seconds")
    chaos.gone = True
    with capture_logs() as logs:
        assert [mirror.step() for _ in range(3)] == [MirrorState.FAILING] * 3
        chaos.gone = False
        assert mirror.step() is MirrorState.FOLLOWING
    assert [entry["event"] for entry in logs] == ["remote_failed", "remote_recovered"]
    assert scene.here.current() == first
    assert scene.metric("failures_total", code="remote_unavailable") == 3
    assert scene.metric("last_success_timestamp_seconds") >= at
    assert mirror.status.code is None


def test_a_snapshot_that_is_refused_is_named_and_changes_nothing(scene: Scene) -> None:
    mirror = scene.mirror()
    first = scene.want()
    mirror.step()
    second = scene.want()
    name = f"{second}/query_tower/model.onnx"
    store = open_store(scene.remote.url)
    store.write(name, b"x" * (scene.source.root / name).stat().st_size)
    assert mirror.step() is MirrorState.FAILING
    assert (mirror.status.code, mirror.status.desired) == ("hash_mismatch", second)
    assert scene.here.current() == first
    assert scene.here.ids() == [first]
    store.write(CURRENT, b"../../etc")
    mirror.step()
    assert mirror.status.code == "snapshot_unknown"


def test_a_newer_wish_ends_the_pull_of_an_older_one(scene: Scene) -> None:
    mirror = scene.mirror()
    first = scene.want()
    seen = scene.remote.look()
    assert not mirror._is_stale(seen)
    scene.want()
    assert not mirror._is_stale(seen)  # looked at no more often than without a pull
    scene.clock.advance_ms(60_000)
    assert mirror._is_stale(seen)
    assert first not in scene.here.ids()


def test_the_oldest_make_room_but_never_what_is_wanted_served_leased_or_pinned(scene: Scene) -> None:
    mirror = scene.mirror()
    ids = []
    for _ in range(5):
        ids.append(scene.want())
        mirror.step()
    assert scene.here.ids() == ids
    scene.serving = ids[0]
    scene.here.pin(ids[1])
    with leases.hold(scene.here.root / ids[2]):
        newest = scene.want()
        scene.mirror(0).step()
        assert scene.here.ids() == [ids[0], ids[1], ids[2], ids[4], newest]  # ids[4]: a rollback would go there


def test_the_bound_holds_while_there_is_a_way(scene: Scene) -> None:
    two = int(2.5 * (PADDING + 60_000))
    mirror = scene.mirror(two)
    ids = []
    for _ in range(4):
        ids.append(scene.want())
        mirror.step()
        scene.serving = ids[-1]
        assert scene.metric("cache_bytes") <= two
    assert scene.here.ids() == ids[-2:]


@pytest.mark.parametrize("limit_bytes", [0, 1 << 40])
def test_a_look_that_finds_nothing_new_does_not_read_the_history(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    mirror, read = scene.mirror(limit_bytes), []
    for _ in range(4):
        scene.want()
        mirror.step()
    mirror.step()
    monkeypatch.setattr(History, "events", lambda history: read.append(history) or [])
    assert mirror.step() is MirrorState.FOLLOWING
    assert not read
    assert scene.metric("cache_bytes") > PADDING


def test_what_was_open_goes_once_it_is_closed_and_what_was_pinned_once_it_is_not(scene: Scene) -> None:
    mirror = scene.mirror(0)
    opened, pinned = scene.want(), None
    mirror.step()
    with leases.hold(scene.here.root / opened):
        pinned = scene.want()
        mirror.step()
        scene.here.pin(pinned)
        kept = [scene.want(), scene.want()]
        for one in kept:
            scene.want(one)
            mirror.step()
        mirror.step()
        assert scene.here.ids() == [opened, pinned, *kept]
    mirror.step()
    assert scene.here.ids() == [pinned, *kept]
    scene.here.unpin(pinned)
    mirror.step()
    assert scene.here.ids() == kept


def test_what_finds_no_room_is_refused_and_what_serves_stays(scene: Scene) -> None:
    mirror = scene.mirror(PADDING + 100_000)
    first = scene.want()
    mirror.step()
    scene.serving = first
    scene.want()
    assert mirror.step() is MirrorState.FAILING
    assert mirror.status.code == "disk_full"
    assert "SCALINGNOTE_REGISTRY_CACHE_BYTES" in (mirror.status.reason or "")
    assert scene.here.ids() == [first]


@pytest.mark.parametrize("limit_bytes", [0, 1 << 40])
def test_the_oldest_go_where_the_disk_is_smaller_than_the_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    def usage(root: Path) -> SimpleNamespace:
        held = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        return SimpleNamespace(free=_SPARE_BYTES + int(2.5 * (PADDING + 60_000)) - held)

    monkeypatch.setattr("snapshot.pull.shutil.disk_usage", usage)
    mirror = scene.mirror(limit_bytes)
    ids = []
    for _ in range(4):
        ids.append(scene.want())
        assert mirror.step() is MirrorState.FOLLOWING, mirror.status.reason
        scene.serving = ids[-1]
    assert scene.here.ids() == ids[-2:]
    scene.here.pin(ids[-2])
    scene.want()
    assert mirror.step() is MirrorState.FAILING
    assert (mirror.status.code, "are free; make room" in (mirror.status.reason or "")) == ("disk_full", True)


def test_what_was_published_here_is_neither_counted_nor_removed(scene: Scene) -> None:
    own = make_snapshot(scene.source.root, seed=99).root
    scene.here.publish(own, "ann")
    mirror = scene.mirror(0)
    for _ in range(3):
        scene.want()
        mirror.step()
    assert own.name in scene.here.ids()
    assert len(scene.here.ids()) == 3  # with the one wanted, and the one before


def test_waits_grow_with_failures_and_are_not_in_step() -> None:
    options = MirrorOptions(poll_seconds=5, backoff_max_seconds=300)
    assert [options.wait_seconds(failures, 0.5) for failures in (0, 1, 2, 10_000)] == [5, 10, 20, 300]
    assert options.wait_seconds(0, 0.0) == 2.5
    assert options.wait_seconds(0, 1.0) == 7.5


def test_a_service_follows_and_says_so(scene: Scene, here: Registry) -> None:
    first = scene.want()
    with client_of(here.root, remote_registry=scene.remote.url) as client:
        assert client.parts.mirror is not None
        client.parts.mirror.step()
        client.parts.follower.converge()
        described = client.get("/info").json()
        assert described["serving"] == first
        assert described["remote"]["desired"] == first
        assert described["remote"]["state"] == "following"
        assert client.metric("scalingnote_remote_state", state="following") == 1
        assert client.post("/search", {"query": "apple"}).status_code == 200


@pytest.mark.parametrize("name", ["here", "./elsewhere/../here", "link"])
def test_a_registry_that_would_follow_itself_is_refused(tmp_path: Path, name: str) -> None:
    here = make_snapshot(tmp_path / "here").root.parent
    (tmp_path / "link").symlink_to(here)
    with pytest.raises(SettingsError, match="the registry itself"), client_of(here, remote_registry=f"{tmp_path}/{name}"):
        raise AssertionError("it would activate what it has just activated, for ever")


def test_a_remote_registry_must_be_one() -> None:
    with pytest.raises(SettingsError, match=r"remote_registry: ftp://x: not a remote registry"):
        load_settings({"registry": "r", "remote_registry": "ftp://x"})
