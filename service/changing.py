"""Changing a small file that several commands may change at once: one after the other, each whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISFIFO

from snapshot.files import write_text


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


def no_pipe(path: Path) -> os.stat_result:
    """What the system says of a file that is read again whenever it changes.

    Raises:
        OSError: there is none; or it is a pipe, whose reader would wait for a writer for ever.
    """
    found = path.stat()
    if S_ISFIFO(found.st_mode):
        raise OSError("a pipe can be read once only: name a file")
    return found


def replace(path: Path, text: str) -> None:
    """Write a file anew with the permissions that it has, or those of a new file.

    Raises:
        OSError: it cannot be written.
    """
    mode = S_IMODE(path.stat().st_mode) if path.exists() else None
    write_text(path, text)
    if mode is not None:
        path.chmod(mode)
