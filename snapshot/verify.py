"""Is this folder the snapshot that was sealed? Hashes first: no parser sees a byte that was not sealed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from snapshot.documents import check_ids, columns_of, open_table
from snapshot.errors import (
    CountMismatchError,
    ExtraFileError,
    HashMismatchError,
    IntegrityError,
    ManifestError,
    MissingFileError,
    UnsafePathError,
)
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import FileEntry, Manifest, parse_manifest, read_bytes
from snapshot.seal import files_of
from snapshot.signing import Trust, read_signature

_AGAIN = "publish the snapshot again, or activate another one"


def verify(folder: Path, threads: int = 2, trust: Trust | None = None, *, to_sign: bool = False) -> Manifest:
    """Check signature, schema, id, the set of files, sizes, hashes and the documents.

    Args:
        folder: of the snapshot.
        threads: that hash.
        trust: whose signatures count, checked before anything is parsed; None checks none.
        to_sign: whatever is there for a signature is going to be replaced.

    Raises:
        SignatureError: the manifest's signature; also without ``trust`` where it can be none.
        NewerSchemaError, ManifestError: the manifest.
        UnsafePathError: an id, a path or a symbolic link that leads out of the folder.
        MissingFileError, ExtraFileError, HashMismatchError, IntegrityError: the files.
        CountMismatchError: the documents are not those that the manifest describes.
    """
    manifest = _read(folder, trust, to_sign=to_sign)
    _check_files(folder, manifest, list(manifest.files), threads)
    _check_documents(folder, manifest)
    return manifest


def read_verified(folder: Path, parts: tuple[str, ...]) -> Manifest:
    """As ``verify``, but hashes only the files below ``parts``: what is going to be read, and not a large index.

    Args:
        folder: of the snapshot.
        parts: folders inside it, with a slash at the end.
    """
    manifest = _read(folder, None)
    _check_files(folder, manifest, [name for name in manifest.files if name.startswith(parts)], threads=2)
    _check_documents(folder, manifest)
    return manifest


def _read(folder: Path, trust: Trust | None, *, to_sign: bool = False) -> Manifest:
    if folder.is_symlink():
        raise UnsafePathError(f"{folder}: a symbolic link; name the folder itself")
    layout = Layout(folder)
    content = read_bytes(layout.manifest)
    if not to_sign:
        read_signature(folder)
    if trust is not None:
        trust.check(folder, content)
    manifest = parse_manifest(content, layout.manifest)
    if manifest.id != folder.name:
        raise ManifestError(f"{folder}: the manifest is that of {manifest.id!r}; a snapshot's folder is named by its id")
    return manifest


def _check_files(folder: Path, manifest: Manifest, names: list[str], threads: int) -> None:
    try:
        _check_names(folder, manifest)
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="verify") as pool:
            longest_first = sorted(names, key=lambda name: -manifest.files[name].bytes)  # the index is most of it
            for _ in pool.map(lambda name: _check_file(folder / name, manifest.files[name]), longest_first):
                pass
    except OSError as error:
        raise IntegrityError(f"{error.filename or folder}: cannot be read ({error.strerror}); {_AGAIN}") from error


def _check_names(folder: Path, manifest: Manifest) -> None:
    layout = Layout(folder)
    found = files_of(folder)
    needed = [layout.model, layout.tokenizer, *layout.index_files(manifest.index.files)]
    needed += [layout.golden_queries, layout.golden_vectors, layout.golden_rows]
    if manifest.teacher_tower is not None:
        needed += [layout.teacher.model, layout.teacher.tokenizer]
    for name, path in found.items():
        if path.is_symlink():
            raise UnsafePathError(f"{folder / name}: a symbolic link; {_AGAIN}")
    listed = set(manifest.files) | {path.relative_to(folder).as_posix() for path in needed}
    for name in sorted(listed - set(found)):
        raise MissingFileError(f"{folder / name}: missing; {_AGAIN}")
    for name in sorted(set(found) - set(manifest.files)):
        raise ExtraFileError(f"{folder / name}: not in the manifest; remove it, or {_AGAIN}")
    for name, path in found.items():
        if not path.is_file():
            raise IntegrityError(f"{folder / name}: not a plain file; {_AGAIN}")


def _check_file(path: Path, entry: FileEntry) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise HashMismatchError(f"{path}: {size} bytes, {entry.bytes} were sealed; {_AGAIN}")
    digest = sha256(path)
    if digest != entry.sha256:
        raise HashMismatchError(f"{path}: sha256 {digest[:12]}…, {entry.sha256[:12]}… was sealed; {_AGAIN}")


def _check_documents(folder: Path, manifest: Manifest) -> None:
    table = open_table(Layout(folder).documents)
    try:
        table.validate(full=True)  # a batch may claim more rows, or longer texts, than its file has bytes
    except pa.ArrowInvalid as error:
        raise CountMismatchError(f"{folder}: the documents are not as many as their file claims ({error}); {_AGAIN}") from error
    if table.num_rows != manifest.documents.count:
        raise CountMismatchError(f"{folder}: {table.num_rows} documents, the manifest says {manifest.documents.count}; {_AGAIN}")
    if columns_of(table.schema) != manifest.documents.columns:
        raise CountMismatchError(f"{folder}: the documents' columns are not those of the manifest; {_AGAIN}")
    check_ids(table.column("id"), folder)
