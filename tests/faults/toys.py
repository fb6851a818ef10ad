"""Two toy snapshots with the same documents, told apart by a mark in each text; and ways of making others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from make_snapshot import documents_table, make_oracle, make_snapshot, no_change, same

from snapshot.documents import write_documents
from snapshot.layout import Layout
from snapshot.seal import Draft

KIND = "hnsw"
ORACLE = make_oracle()
FORMER, OTHER = "former ", "other "


def make(
    folder: Path,
    mark: str = OTHER,
    *,
    tamper: Callable[[Layout], None] = no_change,
    revise: Callable[[Draft], Draft] = same,
) -> Layout:
    """Seal a snapshot whose texts begin with ``mark``; ``tamper`` and ``revise`` spoil it before it is sealed."""

    def marked(layout: Layout) -> None:
        write_marked(layout, mark)
        layout.report.mkdir(exist_ok=True)
        (layout.report / "report.md").write_text(f"# A toy, {mark}\n")
        tamper(layout)

    return make_snapshot(folder, kind=KIND, tamper=marked, revise=revise)


def write_marked(layout: Layout, mark: str, rows: int | None = None) -> None:
    """The documents, or the first ``rows`` of them."""
    table: pa.Table = documents_table([f"{mark}{text}" for text in ORACLE.texts])
    write_documents(table if rows is None else table.slice(0, rows), layout.documents)


def edit_manifest(layout: Layout, **changes: object) -> None:
    """Give fields of a sealed manifest other values."""
    layout.manifest.write_text(json.dumps(json.loads(layout.manifest.read_text()) | changes))
