"""Names of the files in a snapshot and in a registry, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
QUERY_TOWER = "query_tower"
TEACHER_TOWER = "teacher_tower"
INDEX = "index.faiss"


def part_name(number: int) -> str:
    """Name of one file of an index in several."""
    return f"part-{number:05}.faiss"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies inside the snapshot folder ``root``."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / MANIFEST

    @property
    def signature(self) -> Path:
        """Detached Ed25519 signature of the manifest's bytes, if it was signed; 64 bytes, not listed in the manifest."""
        return self.root / SIGNATURE

    @property
    def model(self) -> Path:
        return self.root / QUERY_TOWER / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        return self.root / QUERY_TOWER / "tokenizer.json"

    @property
    def teacher(self) -> TeacherLayout:
        """The same folder, in which ``model`` and ``tokenizer`` are those of the teacher's query tower, if it came along."""
        return TeacherLayout(self.root)

    @property
    def index(self) -> Path:
        """The file of an index that has one; see ``index_files``."""
        return self.root / "index" / INDEX

    def index_files(self, names: Iterable[str]) -> list[Path]:
        """Where the files of an index are, whose names are ``manifest.index.files``."""
        return [self.index.with_name(name) for name in names]

    @property
    def documents(self) -> Path:
        return self.root / "documents"

    @property
    def text_hashes(self) -> Path:
        """uint8[rows, 32], sha256 of each document's rendered text; snapshots before 2026-11 have none."""
        return self.documents / "text_sha256.npy"

    @property
    def golden(self) -> Path:
        return self.root / "golden"

    @property
    def golden_queries(self) -> Path:
        """JSON list of the raw (not yet rendered) probe queries."""
        return self.golden / "queries.json"

    @property
    def golden_vectors(self) -> Path:
        """float32[q, dim], made by the torch tower."""
        return self.golden / "vectors.npy"

    @property
    def golden_rows(self) -> Path:
        """int64[q, k], the best rows by exact search with the torch vectors."""
        return self.golden / "rows.npy"

    @property
    def report(self) -> Path:
        return self.root / "report"


class TeacherLayout(Layout):
    """Where the teacher's query tower lies, for whoever opens towers."""

    __slots__ = ()

    @property
    def model(self) -> Path:
        return self.root / TEACHER_TOWER / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        return self.root / TEACHER_TOWER / "tokenizer.json"


@dataclass(frozen=True, slots=True)
class RegistryLayout:
    """Where everything lies inside a registry folder."""

    root: Path

    @property
    def current(self) -> Path:
        return self.root / "CURRENT"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def pins(self) -> Path:
        """Ids that are never removed, one a line."""
        return self.root / "PINS"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def snapshot(self, snapshot_id: str) -> Layout:
        return Layout(self.root / snapshot_id)
