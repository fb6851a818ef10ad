"""Search engines behind one contract, opened by the kind that the manifest names."""

from __future__ import annotations

from service.engines.base import Engine, Hits
from snapshot.layout import Layout
from snapshot.manifest import Manifest, ShardedIndex

__all__ = ["Engine", "Hits", "open_engine"]


def open_engine(manifest: Manifest, layout: Layout) -> Engine:
    """Open the index of a verified snapshot; the engine's library is imported only here.

    Raises:
        SnapshotError: the file is not the index that the manifest describes.
    """
    if isinstance(manifest.index, ShardedIndex):
        from service.engines.sharded import ShardedEngine

        return ShardedEngine.open(layout.index_files(manifest.index.files), manifest.index, manifest.space.dim)
    from service.engines.faiss import FaissEngine  # here: another engine's library need not be installed

    return FaissEngine.open(layout.index, manifest.index, manifest.space.dim)
