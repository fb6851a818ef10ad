"""``python -m snapshot`` as an operator types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    for seed in (0, 1):
        registry.publish(make_snapshot(tmp_path / "made", rows=20, seed=seed).root)
    return registry


def snapshot(registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snapshot", *arguments, "--registry", str(registry.root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_list_activate_rollback(registry: Registry) -> None:
    a, b = registry.ids()
    assert "nothing is desired" in snapshot(registry, "list").stdout
    assert f"{a} is desired now" in snapshot(registry, "activate", a, "--why", "first").stdout
    snapshot(registry, "activate", b)
    listing = json.loads(snapshot(registry, "list", "--json").stdout)
    assert listing["desired"] == b
    assert {row["id"]: row["desired"] for row in listing["snapshots"]} == {a: False, b: True}
    assert f"{a} is desired again" in snapshot(registry, "rollback").stdout
    events = json.loads(snapshot(registry, "history", "--json").stdout)
    assert [event["action"] for event in events][-3:] == ["activate", "activate", "rollback"]


def test_show_and_verify(registry: Registry) -> None:
    snapshot_id = registry.ids()[0]
    assert json.loads(snapshot(registry, "show", snapshot_id).stdout)["documents"]["count"] == 20
    assert "intact" in snapshot(registry, "verify", snapshot_id).stdout
    registry.layout(snapshot_id).index.write_bytes(b"")
    damaged = snapshot(registry, "verify", snapshot_id)
    assert damaged.returncode == 2
    assert damaged.stderr.startswith("error: ")
    assert "index.faiss: 0 bytes" in damaged.stderr


def test_an_unknown_id_and_an_empty_registry_say_what_to_do(registry: Registry, tmp_path: Path) -> None:
    unknown = snapshot(registry, "activate", "nope")
    assert unknown.returncode == 2
    assert f"no snapshot 'nope'; activate another one with: python -m snapshot activate {registry.ids()[-1]}" in unknown.stderr
    assert "python -m offline run" in snapshot(Registry(tmp_path / "empty"), "list").stdout
