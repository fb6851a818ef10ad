"""Two services over one registry as an operator sees them: who serves what, waves that arrive, and waves that stop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot
from serving import TOKEN, tokens_file

from snapshot.registry import Registry
from tests.live import ENVIRONMENT, ROOT, Live, start, until

pytestmark = pytest.mark.slow
_BUSY_SECONDS = 300


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three snapshots; the first is desired, the third cannot be opened."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    for seed in range(3):
        registry.publish(make_snapshot(tmp_path_factory.mktemp("made"), rows=50, seed=seed).root)
    registry.activate(registry.ids()[0], "first", who="tests")
    graph = registry.layout(registry.ids()[2]).model
    graph.chmod(0o644)
    graph.write_bytes(b"not a graph")
    return registry


@pytest.fixture(scope="module")
def lives(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Live]]:
    folder = tmp_path_factory.mktemp("services")
    flags = ("--threads", "1", "--swap-cpu-share", "1", "--admin-tokens-file", str(tokens_file(folder)))
    with ExitStack() as undo:
        started = [start(folder, registry.root, *flags) for _ in range(2)]
        for live in started:
            undo.callback(live.stop)
        for live in started:
            until(live, live.ready, "ready", _BUSY_SECONDS)
        yield started


def snapshot(registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snapshot", *arguments]
    environment = ENVIRONMENT | {"SCALINGNOTE_REGISTRY": str(registry.root)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def services(lives: list[Live]) -> list[str]:
    return [f"--service=http://127.0.0.1:{live.port}" for live in lives]


def activate(registry: Registry, lives: list[Live], snapshot_id: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "token").write_text(f"{TOKEN}\n")
    options = [f"--token-file={folder / 'token'}", "--wave=1,100%", "--watch=0", f"--wait={_BUSY_SECONDS}"]
    return snapshot(registry, "activate", snapshot_id, *options, *services(lives))


def fleet(registry: Registry, lives: list[Live]) -> tuple[int, list[dict[str, Any]]]:
    done = snapshot(registry, "fleet", *services(lives), "--json")
    return done.returncode, json.loads(done.stdout)["services"]


def test_waves_arrive_one_after_the_other_and_the_registry_is_last(registry: Registry, lives: list[Live], tmp_path: Path) -> None:
    first, second, _ = registry.ids()
    assert fleet(registry, lives)[0] == 0
    done = activate(registry, lives, second, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()][:4] == ["wave 1 of 2"] * 2 + ["wave 2 of 2"] * 2
    assert registry.current() == second
    for live in lives:
        until(live, lambda live=live: live.get("/info")[1]["trial"] is None, "following the registry again", _BUSY_SECONDS)
    code, rows = fleet(registry, lives)
    assert (code, {row["serving"] for row in rows}, {row["desired"] for row in rows}) == (0, {second}, {second})
    events = [(event.action, event.snapshot) for event in registry.history() if event.action == "activate"]
    assert events == [("activate", first), ("activate", second)]


def test_a_wave_that_fails_stops_and_the_error_says_where_and_why(registry: Registry, lives: list[Live], tmp_path: Path) -> None:
    wanted, spoilt = registry.current(), registry.ids()[2]
    done = activate(registry, lives, spoilt, tmp_path)
    assert done.returncode == 2
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"http://127.0.0.1:{lives[0].port}: does not serve {spoilt}: hash_mismatch" in error
    assert "All 1 that had begun go back" in error
    assert registry.current() == wanted
    for live in lives:
        until(live, lambda live=live: live.get("/info")[1]["desired"] == wanted, "back", _BUSY_SECONDS)
    code, rows = fleet(registry, lives)
    assert (code, {row["serving"] for row in rows}) == (0, {wanted})


def test_a_service_that_is_gone_is_seen(registry: Registry, lives: list[Live], tmp_path: Path) -> None:
    assert lives[1].stop() == 0
    code, rows = fleet(registry, lives)
    assert code == 1
    assert rows[0]["serving"] == registry.current()
    assert f"http://127.0.0.1:{lives[1].port}: out of reach" in rows[1]["unreachable"]
    done = activate(registry, lives, registry.ids()[0], tmp_path)
    assert done.returncode == 2
    assert "out of reach" in done.stderr
    assert "wave" not in done.stderr.partition("error:")[0], "nobody was asked to change"
