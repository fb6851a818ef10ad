"""The registry as operators see it over HTTP: a row for each snapshot, and what differs between two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.gate import GateReport
from snapshot.manifest import Manifest


def row(
    manifest: Manifest, desired: str | None, serving: str | None, former: str | None, verdict: GateReport | None
) -> dict[str, Any]:
    """A SnapshotModel; ``former``: what is kept open beside what serves."""
    age_seconds = (datetime.now(UTC) - manifest.created_at).total_seconds()
    return {
        "id": manifest.id,
        "name": manifest.name,
        "parent": manifest.parent,
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
        "age_seconds": max(0, round(age_seconds)),  # a clock may have been set back
        "documents": manifest.documents.count,
        "space": manifest.space.fingerprint,
        "dim": manifest.space.dim,
        "index": manifest.index.kind,
        "precision": manifest.query_tower.precision,
        "bytes": size_bytes(manifest),
        "retained": None if manifest.retention is None else manifest.retention.retained,
        "desired": manifest.id == desired,
        "serving": manifest.id == serving,
        "open": manifest.id in (serving, former),
        "gate": None if verdict is None else summary(verdict),
    }


def summary(report: GateReport) -> dict[str, Any]:
    """A VerdictModel."""
    return {
        "at": report.at,
        "accepted": report.accepted,
        "passed": report.passed,
        "forced": report.forced,
        "failed_checks": [check.name for check in report.checks if not check.passed],
    }


def gate(attempts: Sequence[GateReport], *, running: bool) -> dict[str, Any]:
    """A GateResponse of the attempts of one snapshot, oldest first, of which there is at least one that is over."""
    last, *earlier = [{**report.as_dict(), **summary(report)} for report in reversed(attempts)]
    return {**last, "earlier": earlier, "running": running}


def difference(first: Manifest, second: Manifest) -> list[dict[str, Any]]:
    """DifferenceModels, of what the manifests of two snapshots say."""
    before, after = _facts(first), _facts(second)
    shared = sum(entry.bytes for path, entry in first.files.items() if second.files.get(path) == entry)
    before["shared_bytes"] = after["shared_bytes"] = shared
    return [{"name": name, "first": before[name], "second": after[name], "equal": before[name] == after[name]} for name in before]


def size_bytes(manifest: Manifest) -> int:
    """Of all files."""
    return sum(entry.bytes for entry in manifest.files.values())


def _facts(manifest: Manifest) -> dict[str, str | int | float | None]:
    index, retention = manifest.index, manifest.retention
    effort = next((row for row in index.efforts if row.effort == index.default_effort), index.efforts[-1])
    return {
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
        "name": manifest.name,
        "parent": manifest.parent,
        "documents": manifest.documents.count,
        "columns": ", ".join(column.name for column in manifest.documents.columns),
        "bytes": size_bytes(manifest),
        "space": manifest.space.fingerprint,
        "dim": manifest.space.dim,
        "precision": manifest.query_tower.precision,
        "tower_parameters": manifest.query_tower.parameters,
        "tower_sha256": _hash(manifest, "query_tower/model.onnx"),
        "index": index.kind,
        "index_sha256": _index_hash(manifest),
        "default_effort": index.default_effort,
        "recall_at_10": effort.recall_at_10,
        "p99_ms": effort.p99_ms,
        "retained": None if retention is None else retention.retained,
    }


def _hash(manifest: Manifest, path: str) -> str | None:
    entry = manifest.files.get(path)
    return None if entry is None else entry.sha256


def _index_hash(manifest: Manifest) -> str | None:
    """Of the index's file; of several, the hash of their hashes."""
    found = [_hash(manifest, f"index/{name}") for name in manifest.index.files]
    if len(found) == 1:
        return found[0]
    return hashlib.sha256("".join(each or "" for each in found).encode()).hexdigest()
