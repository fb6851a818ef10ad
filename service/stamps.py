"""Whether the files that serve are still those that were verified, without reading them again as long as nothing says no."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from snapshot.errors import HashMismatchError, MissingFileError
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import Manifest
from snapshot.seal import files_of

_AGAIN = "a sealed file never changes: look at the disk and at who writes there, then roll back, or publish again"


class _Stamp(NamedTuple):
    inode: int
    bytes: int
    modified_ns: int


class Stamps:
    """Size, time of change and identity of each file of a snapshot."""

    def __init__(self, stamps: dict[str, _Stamp] | None = None) -> None:
        self._stamps = stamps or {}

    @classmethod
    def of(cls, layout: Layout) -> Stamps:
        """As the files are now; taken before they are hashed, so that no change can fall between."""
        return cls({name: _stamp(path) for name, path in files_of(layout.root).items() if path.is_file()})

    def check(self, layout: Layout, manifest: Manifest) -> None:
        """Hash the files again that look changed.

        Raises:
            MissingFileError: one is gone.
            HashMismatchError: one has other content than was sealed.
        """
        for name in manifest.files.keys() & self._stamps.keys():
            path, stamp = layout.root / name, self._stamps[name]
            try:
                now = _stamp(path)
            except OSError as error:
                raise MissingFileError(f"{path}: was there when it was verified ({error.strerror}); {_AGAIN}") from error
            if now != stamp:
                _check_hash(path, manifest.files[name].sha256)
                self._stamps[name] = now


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _check_hash(path: Path, sealed: str) -> None:
    digest = sha256(path)
    if digest != sealed:
        raise HashMismatchError(f"{path}: sha256 is now {digest[:12]}…, {sealed[:12]}… was sealed; {_AGAIN}")
