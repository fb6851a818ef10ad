"""The index of a walk as the service will search it, whoever keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from offline.efforts import open_described, search_as_served
from offline.index import load_description
from offline.ranking import Floats, Rows
from offline.recipe import Recipe
from snapshot.files import link_or_copy
from snapshot.layout import Layout
from snapshot.manifest import Index


class Sized(Protocol):
    """Width and number of the vectors, by the names that FAISS has for them."""

    @property
    def d(self) -> int: ...

    @property
    def ntotal(self) -> int: ...


class Served(Sized, Protocol):
    """What the walk asks of an index."""

    @property
    def described(self) -> Index:
        """What the manifest will say."""

    def search(self, queries: Floats, k: int) -> Rows:
        """Rows int64[n, at most k] at the default effort of queries float32[n, dim]."""

    def bring(self, layout: Layout) -> None:
        """Put what belongs into the snapshot there."""


class FaissServed:
    """An index in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.described = load_description(folder)
        self._index = open_described(folder, self.described)
        self.d, self.ntotal = int(self._index.d), int(self._index.ntotal)

    def search(self, queries: Floats, k: int) -> Rows:
        return search_as_served(self._index, self.described, queries, k)

    def bring(self, layout: Layout) -> None:
        for path in layout.index_files(self.described.files):
            link_or_copy(self._folder / path.name, path)  # it is replaced and never written to


def open_served(folder: Path, recipe: Recipe) -> Served:
    """The output of the stage ``index`` in ``folder``."""
    if load_description(folder).kind == "milvus":
        from offline.milvus import MilvusServed  # which needs not be installed

        return MilvusServed(folder, recipe.milvus)
    return FaissServed(folder)
