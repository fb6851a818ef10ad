"""Writing and hashing files so that a kill at any moment leaves either the old state or the new one."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
"""How the names of files end that a kill may leave behind."""
_MAX_SECRET_BYTES = 4096
_CHUNK_BYTES = 16 << 20
"""Read and hashed without the interpreter's lock. Between two of them whoever imports modules meanwhile keeps it for 5 ms."""


@contextmanager
def atomic_write(path: Path, staging: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file; on success fsync it and rename it to ``path``, else remove it.

    Args:
        path: of the file to be written.
        staging: folder of the temporary file, on the same file system; that of ``path`` unless given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (staging or path.parent) / f".{path.name}.{os.getpid()}{TEMPORARY}"
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give ``target`` the bytes of ``source``: by a hard link, or a copy on another file system or one without links.

    Only for files that are never changed in place, as those of a sealed snapshot.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)


def write_text(path: Path, text: str) -> None:
    """Atomically replace ``path`` by ``text`` in UTF-8."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading; never follows a symbolic link in the last place, never waits for a pipe.

    Raises:
        OSError: it is missing, not a plain file, or cannot be read; ``strerror`` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def read_small(path: Path, limit_bytes: int) -> bytes:
    """All bytes of a plain file that has no business to be large.

    Raises:
        OSError: as ``open_plain``, and EFBIG where it has more than ``limit_bytes``.
    """
    with open_plain(path) as handle:
        content = handle.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", str(path))
    return content


def read_secret(path: Path) -> str:
    """The one line of a file, or of a pipe, that holds a key or a token, without the mark that editors of Windows put before it.

    Links are followed: orchestrators mount secrets as such.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not one line of printable ASCII; what it is, is not repeated.
    """
    with path.open("rb") as handle:
        content = handle.read(_MAX_SECRET_BYTES + 1)
    secret = content.removeprefix(codecs.BOM_UTF8).strip()
    if not secret or len(content) > _MAX_SECRET_BYTES or not secret.isascii() or not secret.decode("ascii").isprintable():
        raise ValueError("not one line of printable ASCII")
    return secret.decode("ascii")


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_plain(path) as handle:
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, os.fstat(handle.fileno()).st_size + 1)))
        while size := handle.raw.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
