"""Three snapshots to swap among: one that serves, the one before, which may be kept open, and one that has to be loaded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapshot.layout import Layout
from snapshot.manifest import read_manifest
from snapshot.registry import Registry
from tests.bench.cache import Cache
from tests.soak.twins import bring, make_twin

_MARKS = {"negated": "negated: ", "again": "again: "}


@dataclass(frozen=True)
class Trio:
    """Snapshots of the same documents.

    Attributes:
        marks: by id, what the texts in ``column`` begin with.
        queries: to search by.
    """

    layouts: list[Layout]
    marks: dict[str, str]
    column: str
    queries: list[str]

    @property
    def ids(self) -> list[str]:
        return [layout.root.name for layout in self.layouts]

    @property
    def index_bytes(self) -> int:
        return self.layouts[0].index.stat().st_size

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """A registry of all three, the first of them wanted; thrown away after the block."""
        with tempfile.TemporaryDirectory(prefix=".soak-", dir=self.layouts[-1].root.parent) as folder:
            registry = Registry(Path(folder))
            for layout in self.layouts:
                bring(layout, registry.root)
            registry.activate(self.ids[0], "soak", who="tests")
            yield registry


def make_trio(cache: Cache, layout: Layout, column: str, queries: list[str]) -> Trio:
    """The snapshot at ``layout`` and two that are made of it once: all vectors negated, and only marked."""
    manifest = read_manifest(layout.manifest)

    def make(folder: Path) -> None:
        made = {
            name: make_twin(layout, manifest, folder, mark, column, negated=name == "negated").root.name
            for name, mark in _MARKS.items()
        }
        (folder / "twins.json").write_text(json.dumps(made))

    folder = cache.folder(f"twins-{manifest.name}", {"of": manifest.id, "marks": _MARKS, "column": column}, make)
    made = json.loads((folder / "twins.json").read_text())
    layouts = [layout, *(Layout(folder / made[name]) for name in _MARKS)]
    marks = {layout.root.name: "", **{made[name]: mark for name, mark in _MARKS.items()}}
    return Trio(layouts, marks, column, queries)
