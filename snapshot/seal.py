"""Sealing: hash every file, make everything durable, write the manifest last, rename."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from snapshot.files import fsync_file, fsync_folder, sha256, write_text
from snapshot.layout import MANIFEST, SIGNATURE, Layout
from snapshot.manifest import Documents, FileEntry, Golden, Index, Manifest, QueryTower, Retention, Space, TextSpec


@dataclass(frozen=True)
class Draft:
    """A manifest before it is sealed: what only the builder knows."""

    name: str
    space: Space
    query_tower: QueryTower
    document_text: TextSpec
    index: Index
    documents: Documents
    golden: Golden
    retention: Retention | None = None
    parent: str | None = None
    build: dict[str, str] = field(default_factory=dict)
    teacher_tower: QueryTower | None = None


def seal(staging: Path, draft: Draft) -> Path:
    """Turn the folder ``staging`` into the snapshot ``staging.parent / id`` and return that.

    The id is the time of sealing and a digest of the files, so equal content sealed twice is told apart and
    ids sort by time. A kill before the last rename leaves a folder without a manifest, which does not exist.
    """
    files = {name: FileEntry(bytes=path.stat().st_size, sha256=sha256(path)) for name, path in files_of(staging).items()}
    created_at = datetime.now(UTC).replace(microsecond=0)
    digest = hashlib.sha256("".join(f"{name}{entry.sha256}" for name, entry in files.items()).encode()).hexdigest()
    snapshot_id = f"{created_at:%Y%m%dT%H%M%SZ}-{digest[:8]}"
    described = vars(draft) | {"index": draft.index.sealed_as(snapshot_id)}
    manifest = Manifest(id=snapshot_id, created_at=created_at, files=files, **described)
    for path in files_of(staging).values():
        fsync_file(path)
    for folder in [path for path in staging.rglob("*") if path.is_dir()]:
        fsync_folder(folder)
    write_text(Layout(staging).manifest, manifest.model_dump_json(indent=2))
    sealed = staging.parent / snapshot_id
    staging.rename(sealed)
    fsync_folder(sealed.parent)
    return sealed


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` but the manifest and its signature, by its relative path with forward slashes, sorted."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {name: found[name] for name in sorted(found) if name not in (MANIFEST, SIGNATURE)}
