"""A registry and its snapshot, intact and with one fault at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_snapshot

from service.doctor.findings import Finding
from service.doctor.registry import check_desired, check_disk, check_registry, check_swap_memory, manifest_of, newest
from service.doctor.timings import Timing
from service.settings import Settings
from snapshot.errors import SnapshotError
from snapshot.layout import Layout
from snapshot.registry import Registry

GB = 10**9


def no_time(*_: object) -> list[Timing]:
    """Stages are timed by another test."""
    return []


def by_name(root: Path, snapshot: str | None = None, **settings: object) -> dict[str, Finding]:
    return {found.check: found for found in check_registry(Settings(registry=root, **settings), snapshot, no_time)}


def made(root: Path, tamper: Callable[[Layout], None] | None = None, **options: object) -> Layout:
    layout = make_snapshot(root, kind="hnsw", **({} if tamper is None else {"tamper": tamper}), **options)
    Registry(root).activate(layout.root.name, "for a test")
    return layout


def wrong(found: dict[str, Finding]) -> set[str]:
    assert all(finding.advice for finding in found.values() if finding.verdict != "ok")
    return {name for name, finding in found.items() if finding.verdict == "wrong"}


def test_an_intact_snapshot_passes_every_check(tmp_path: Path) -> None:
    made(tmp_path)
    found = by_name(tmp_path)
    assert wrong(found) == set()
    checks = ("hashes", "space", "golden_vectors", "golden_hits", "recall", "p99", "memory")
    assert {"desired", "swap_memory", "disk", *(f"snapshot: {name}" for name in checks)} <= found.keys()


def test_an_altered_file_is_named(tmp_path: Path) -> None:
    layout = made(tmp_path)
    content = bytearray(layout.model.read_bytes())
    content[-1] ^= 1
    layout.model.write_bytes(content)
    found = by_name(tmp_path)
    assert wrong(found) == {"snapshot: hashes"}
    assert str(layout.model) in found["snapshot: hashes"].seen
    assert "rollback" in found["snapshot: hashes"].advice


def test_golden_vectors_that_are_not_reproduced_are_wrong(tmp_path: Path) -> None:
    made(tmp_path, lambda layout: np.save(layout.golden_vectors, -np.load(layout.golden_vectors)))
    found = by_name(tmp_path)
    assert "snapshot: golden_vectors" in wrong(found)
    assert found["snapshot: golden_vectors"].seen.startswith("2 ")
    assert not any(name.startswith("latency") for name in found)


def test_golden_hits_that_the_index_does_not_find_are_wrong(tmp_path: Path) -> None:
    made(tmp_path, lambda layout: np.save(layout.golden_rows, 199 - np.load(layout.golden_rows)))
    assert wrong(by_name(tmp_path)) == {"snapshot: golden_hits"}


def test_memory_that_is_short_for_two_is_wrong(tmp_path: Path) -> None:
    made(tmp_path)
    found = by_name(tmp_path, gate_memory_share=1e-9)
    assert {"swap_memory", "snapshot: memory"} <= wrong(found)
    assert "SCALINGNOTE_KEEP_FORMER=false" in found["swap_memory"].advice


@pytest.mark.parametrize(("available", "verdict"), [(None, "unknown"), (2 * GB, "wrong"), (4 * GB, "ok")])
def test_swap_memory(available: int | None, verdict: str) -> None:
    assert check_swap_memory(3 * GB, available, 0.9).verdict == verdict


def test_a_disk_without_room_for_another_snapshot_is_wrong() -> None:
    assert check_disk(GB, 2 * GB).verdict == "wrong"
    assert check_disk(2 * GB, GB).verdict == "ok"


def test_what_is_desired_must_be_there(tmp_path: Path) -> None:
    assert by_name(tmp_path)["desired"].advice.endswith(f"python -m offline run RECIPE --registry {tmp_path}")
    layout = make_snapshot(tmp_path)
    assert f"activate {layout.root.name} --registry {tmp_path} " in by_name(tmp_path)["desired"].advice
    Registry(tmp_path).record_outcome(layout.root.name, "refused", "too slow")
    assert f"declined all 1: python -m snapshot history --registry {tmp_path}" in by_name(tmp_path)["desired"].advice
    assert check_desired("a", ["a", "b"], {"b": "not a manifest"}).verdict == "warn"
    assert check_desired("a", ["a", "b"], {"a": "not a manifest"}).verdict == "wrong"
    assert check_desired("c", ["a"], {}).verdict == "wrong"


def test_a_pointer_that_cannot_be_read_is_wrong_and_does_not_end_the_other_checks(tmp_path: Path) -> None:
    layout = made(tmp_path)
    (tmp_path / "CURRENT").write_text("../elsewhere")
    assert wrong(by_name(tmp_path)) == {"desired"}
    assert by_name(tmp_path, layout.root.name)["snapshot: hashes"].verdict == "ok"


def test_the_newest_snapshot_and_the_one_that_is_looked_at(tmp_path: Path) -> None:
    settings = Settings(registry=tmp_path)
    assert (newest(settings), manifest_of(settings, None)) == (None, None)
    layout = made(tmp_path)
    manifest = manifest_of(settings, None)
    assert manifest is not None
    assert (manifest.id, newest(settings)) == (layout.root.name, manifest.created_at)
    later = layout.manifest.read_text().replace(manifest.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"), "2999-01-01T00:00:00Z")
    layout.manifest.write_text(later)
    assert newest(settings) == datetime(2999, 1, 1, tzinfo=UTC)


def test_another_snapshot_can_be_looked_at_before_it_is_activated(tmp_path: Path) -> None:
    made(tmp_path)
    candidate = make_snapshot(
        tmp_path, seed=1, tamper=lambda layout: layout.golden_queries.write_text(json.dumps(["apple"] * 16))
    )
    assert wrong(by_name(tmp_path)) == set()
    assert "snapshot: golden_vectors" in wrong(by_name(tmp_path, candidate.root.name))
    with pytest.raises(SnapshotError, match="no snapshot"):
        by_name(tmp_path, "20200101T000000Z-00000000")


def test_a_snapshot_without_a_signature_is_wrong_where_one_is_required(tmp_path: Path) -> None:
    made(tmp_path)
    key = tmp_path / "key"
    key.write_text("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    found = by_name(tmp_path, trusted_keys=(key,), require_signature=True)
    assert wrong(found) == {"snapshot: signature"}
