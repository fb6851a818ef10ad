"""Is this folder the snapshot that was sealed? Hashes first: no parser sees a byte that was not sealed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from snapshot.documents import open_documents
from snapshot.errors import CountMismatchError, ExtraFileError, HashMismatchError, IntegrityError, ManifestError, MissingFileError
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import FileEntry, Manifest, read_manifest
from snapshot.seal import files_of

_AGAIN = "publish the snapshot again, or activate another one"


def verify(folder: Path, threads: int = 2) -> Manifest:
    """Check schema, id, the set of files, sizes, hashes and the number of documents.

    Raises:
        NewerSchemaError, ManifestError: the manifest.
        MissingFileError, ExtraFileError, HashMismatchError, IntegrityError: the files.
        CountMismatchError: the documents are not as many as the manifest says.
    """
    manifest = read_manifest(Layout(folder).manifest)
    if manifest.id != folder.name:
        raise ManifestError(f"{folder}: the manifest is that of {manifest.id!r}; a snapshot's folder is named by its id")
    _check_names(folder, manifest)
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="verify") as pool:
        longest_first = sorted(manifest.files.items(), key=lambda item: -item[1].bytes)  # the index is most of it
        for _ in pool.map(lambda item: _check_file(folder / item[0], item[1]), longest_first):
            pass
    _check_documents(folder, manifest)
    return manifest


def _check_names(folder: Path, manifest: Manifest) -> None:
    layout = Layout(folder)
    found = files_of(folder)
    needed = [layout.model, layout.tokenizer, layout.index, layout.golden_queries, layout.golden_vectors, layout.golden_rows]
    listed = set(manifest.files) | {path.relative_to(folder).as_posix() for path in needed}
    for name in sorted(listed - set(found)):
        raise MissingFileError(f"{folder / name}: missing; {_AGAIN}")
    for name in sorted(set(found) - set(manifest.files)):
        raise ExtraFileError(f"{folder / name}: not in the manifest; remove it, or {_AGAIN}")
    for name, path in found.items():
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{folder / name}: not a plain file; {_AGAIN}")


def _check_file(path: Path, entry: FileEntry) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise HashMismatchError(f"{path}: {size} bytes, {entry.bytes} were sealed; {_AGAIN}")
    digest = sha256(path)
    if digest != entry.sha256:
        raise HashMismatchError(f"{path}: sha256 {digest[:12]}…, {entry.sha256[:12]}… was sealed; {_AGAIN}")


def _check_documents(folder: Path, manifest: Manifest) -> None:
    documents = open_documents(Layout(folder).documents)
    if documents.count != manifest.documents.count:
        raise CountMismatchError(f"{folder}: {documents.count} documents, the manifest says {manifest.documents.count}; {_AGAIN}")
    if documents.columns != manifest.documents.columns:
        raise CountMismatchError(f"{folder}: the documents' columns are not those of the manifest; {_AGAIN}")
