"""Changing a small file that several commands may change at once: one after the other, each whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISFIFO

from snapshot.files import write_text

_MOST_BYTES = 1 << 20


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While no other process is in here for a file of the same folder.

    Raises:
        OSError: there is no such folder, which is likely misspelt and not to be made; or it cannot be opened.
    """
    if not path.parent.exists():
        raise FileNotFoundError(f"no such folder {path.parent}; make it first, or correct the path")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def read(path: Path) -> tuple[int, str]:
    """Mode and text of a file that is read again whenever it changes, without the mark that editors of Windows put before it.

    Raises:
        OSError: there is none; it is longer than such a file need be; or a pipe, whose reader would wait for a writer for ever.
        UnicodeDecodeError: it is no text.
    """
    found = path.stat()
    if S_ISFIFO(found.st_mode):
        raise OSError("a pipe can be read once only: name a file")
    if found.st_size > _MOST_BYTES:
        raise OSError(f"it has {found.st_size} bytes; at most {_MOST_BYTES}")
    return found.st_mode, path.read_text(encoding="utf-8-sig")


def replace(path: Path, text: str) -> None:
    """Write a file anew with the permissions that it has, or those of a new file.

    Raises:
        OSError: it cannot be written.
    """
    mode = S_IMODE(path.stat().st_mode) if path.exists() else None
    write_text(path, text)
    if mode is not None:
        path.chmod(mode)
