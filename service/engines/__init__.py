"""Search engines behind one contract, opened by the kind that the manifest names."""

from __future__ import annotations

from service.engines.base import Engine, Hits
from service.engines.remote import MilvusServer
from snapshot.errors import EngineUnavailableError, LibraryMissingError
from snapshot.layout import Layout
from snapshot.manifest import Manifest, MilvusIndex, ShardedIndex

__all__ = ["Engine", "Hits", "MilvusServer", "open_engine"]


_NOWHERE = MilvusServer()


def open_engine(manifest: Manifest, layout: Layout, milvus: MilvusServer = _NOWHERE, threads: int = 1) -> Engine:
    """Open the index of a verified snapshot; the engine's library is imported only here.

    ``threads`` are those of one search of an index in several files.

    Raises:
        SnapshotError: the file, or the collection of a server, is not the index that the manifest describes.
        LibraryMissingError: the library of such a server is not installed.
    """
    index = manifest.index
    if index.kind == "milvus":
        return _open_milvus(manifest, index, milvus)
    if isinstance(index, ShardedIndex):
        from service.engines.sharded import ShardedEngine

        return ShardedEngine.open(layout.index_files(index.files), index, manifest.space.dim, threads)
    from service.engines.faiss import FaissEngine  # here: another engine's library need not be installed

    return FaissEngine.open(layout.index, index, manifest.space.dim)


def _open_milvus(manifest: Manifest, index: MilvusIndex, milvus: MilvusServer) -> Engine:
    try:
        from service.engines.milvus import MilvusEngine  # here: it takes a second, and is an extra
    except ImportError as error:
        raise LibraryMissingError(
            f"{manifest.id}: its index is on a Milvus server, which needs the extra milvus ({error}); "
            "pip install 'scalingnote[milvus]', or activate another snapshot"
        ) from error
    if milvus.uri is None:
        raise EngineUnavailableError(
            f"{manifest.id}: its index is on a Milvus server; say which with --milvus-uri or SCALINGNOTE_MILVUS_URI, or activate "
            "another snapshot"
        )
    return MilvusEngine.open(index, manifest.documents.columns, manifest.space.dim, milvus)
