"""Whether the files that serve are still those that were verified: at once where they look changed, and slowly in any case.

What looks unchanged may be another file all the same, on a disk that decays. So a part of the files is read again whenever
what serves proves itself, one file after the other and round again. It is read through the system's cache, as the snapshot
itself is: what requests get is seen, not what has decayed on the disk under pages that are still in memory.
"""

from __future__ import annotations

import os
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import NamedTuple

from snapshot.errors import HashMismatchError, ManifestError, MissingFileError, SnapshotError
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import Manifest, read_manifest
from snapshot.seal import files_of

A_PROOF_BYTES = 64 << 20
"""Read again at each proof: some 50 ms of one core, and a gigabyte in an hour and a half of proofs five minutes apart."""
_PIECE_BYTES = 4 << 20
_AGAIN = "a sealed file never changes: look at the disk and at who writes there, then roll back, or publish again"


class _Stamp(NamedTuple):
    inode: int
    bytes: int
    modified_ns: int


class _Reading:
    """How far a file has been read again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.at = 0
        self.digest = new_sha256()

    def on(self, path: Path, most_bytes: int) -> int:
        """Read so many bytes more; how many there were."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        begun = self.at
        try:
            while self.at - begun < most_bytes:
                piece = os.pread(descriptor, min(_PIECE_BYTES, most_bytes - (self.at - begun)), self.at)
                if not piece:
                    break
                self.digest.update(piece)
                self.at += len(piece)
        finally:
            os.close(descriptor)
        return self.at - begun


class Stamps:
    """Size, time of change and identity of each file of a snapshot; used by one thread."""

    def __init__(self, stamps: dict[str, _Stamp] | None = None) -> None:
        self._stamps = stamps or {}
        self._waiting: list[str] = []
        self._reading: _Reading | None = None
        self._wrong: dict[str, SnapshotError] = {}

    @classmethod
    def of(cls, layout: Layout) -> Stamps:
        """As the files are now; taken before they are hashed, so that no change can fall between."""
        return cls({name: _stamp(path) for name, path in files_of(layout.root).items() if path.is_file()})

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(stamp.bytes for stamp in self._stamps.values())

    def check(self, layout: Layout, manifest: Manifest) -> None:
        """Hash the files again that look changed, and read the manifest, which is small and has no hash.

        Raises:
            MissingFileError: one is gone.
            HashMismatchError: one has other content than was sealed, or the manifest is not what was verified.
        """
        if self._stamps:
            _check_manifest(layout, manifest)
        for name in manifest.files.keys() & self._stamps.keys():
            path, stamp = layout.root / name, self._stamps[name]
            try:
                now = _stamp(path)
            except OSError as error:
                raise MissingFileError(f"{path}: was there when it was verified ({error.strerror}); {_AGAIN}") from error
            if now != stamp:
                _check_hash(path, manifest.files[name].sha256)
                self._stamps[name] = now
                self._wrong.pop(name, None)
                if self._reading is not None and self._reading.name == name:
                    self._reading = None

    def read_on(self, layout: Layout, manifest: Manifest, most_bytes: int = A_PROOF_BYTES) -> None:
        """Read the next ``most_bytes`` of the files, going on where the last call ended.

        Raises:
            HashMismatchError: one has other content than was sealed, or cannot be read; until it has been read again and is well.
        """
        left, files = most_bytes, len(self._stamps)
        while left > 0 and files > 0:
            if self._reading is None:
                self._reading = _Reading(self._next(manifest))
            reading = self._reading
            read = _read(reading, layout.root / reading.name, left)
            if read < left:  # to its end
                self._judge(reading, layout, manifest)
                self._reading, files = None, files - 1
            left -= read
        for error in self._wrong.values():
            raise error

    def _next(self, manifest: Manifest) -> str:
        if not self._waiting:
            self._waiting = sorted(manifest.files.keys() & self._stamps.keys(), reverse=True)
        return self._waiting.pop()

    def _judge(self, reading: _Reading, layout: Layout, manifest: Manifest) -> None:
        name, sealed = reading.name, manifest.files[reading.name].sha256
        self._wrong.pop(name, None)
        if reading.digest.hexdigest() != sealed:
            self._wrong[name] = _mismatch(layout.root / name, reading.digest.hexdigest(), sealed)


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _check_manifest(layout: Layout, manifest: Manifest) -> None:
    """It is read by those who pull, start and compare, and leases are locks on it: what serves needs it, although it is open."""
    if not layout.manifest.exists():
        raise MissingFileError(f"{layout.manifest}: was there when it was verified; {_AGAIN}")
    try:
        same = read_manifest(layout.manifest) == manifest
    except ManifestError as error:
        raise HashMismatchError(f"{error}; {_AGAIN}") from error
    if not same:
        raise HashMismatchError(f"{layout.manifest}: is not what was verified; {_AGAIN}")


def _check_hash(path: Path, sealed: str) -> None:
    digest = sha256(path)
    if digest != sealed:
        raise _mismatch(path, digest, sealed)


def _mismatch(path: Path, digest: str, sealed: str) -> HashMismatchError:
    return HashMismatchError(f"{path}: sha256 is now {digest[:12]}…, {sealed[:12]}… was sealed; {_AGAIN}")


def _read(reading: _Reading, path: Path, most_bytes: int) -> int:
    try:
        return reading.on(path, most_bytes)
    except OSError as error:
        raise HashMismatchError(f"{path}: cannot be read any more ({error.strerror}); {_AGAIN}") from error
