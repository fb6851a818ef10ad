"""Whether an Arrow IPC file is one that may be memory-mapped: as large as it claims, and no larger once it is read.

Compressed buffers claim how large they become, and 100 kB of them can become 100 GB; blocks may be listed any number of
times. pyarrow shows neither before it reads, so the file's own tables are looked at: the footer and the batches' headers,
flatbuffers whose offsets pyarrow has checked (https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pyarrow as pa

from snapshot.errors import ManifestError

_MAGIC = b"ARROW1"
_TAIL = struct.Struct("<i6s")
_BLOCK = struct.Struct("<qi4xq")
_FOOTER_DICTIONARIES, _FOOTER_BATCHES = 2, 3
_MESSAGE_HEADER = 2
_BATCH_COMPRESSION = 3
"""Places of the fields in their tables of Message.fbs and File.fbs."""


class _Block(NamedTuple):
    offset: int
    header_bytes: int
    body_bytes: int


class _Table(NamedTuple):
    """A table of a flatbuffer."""

    content: bytes
    at: int

    def field(self, place: int) -> int | None:
        """Where a field is, or None where it has no value."""
        vtable = self.at - struct.unpack_from("<i", self.content, self.at)[0]
        entry = 4 + 2 * place
        if entry >= struct.unpack_from("<H", self.content, vtable)[0]:
            return None
        offset = int(struct.unpack_from("<H", self.content, vtable + entry)[0])
        return self.at + offset if offset else None

    def behind(self, place: int) -> int | None:
        """Where what a field points to begins."""
        at = self.field(place)
        return None if at is None else at + int(struct.unpack_from("<I", self.content, at)[0])

    def blocks(self, place: int) -> list[_Block]:
        at = self.behind(place)
        if at is None:
            return []
        count = struct.unpack_from("<I", self.content, at)[0]
        return [_Block(*_BLOCK.unpack_from(self.content, at + 4 + number * _BLOCK.size)) for number in range(count)]


def check_plain(source: pa.NativeFile, name: object) -> None:
    """Refuse what would not be read in place. Call it after ``pa.ipc.open_file``, which checks the footer's offsets.

    Args:
        source: the file, memory-mapped; nothing but headers is read.
        name: of the file, for the message.

    Raises:
        ManifestError: a batch is compressed, there are dictionaries, or the batches are more than the file.
        pa.ArrowException: a batch has no header.
    """
    try:
        _check(source, name)
    except struct.error as error:
        raise ManifestError(f"{name}: not an Arrow IPC file ({error}); publish the snapshot again") from error


def _check(source: pa.NativeFile, name: object) -> None:
    footer = _footer(source)
    batches = footer.blocks(_FOOTER_BATCHES)
    if footer.blocks(_FOOTER_DICTIONARIES):
        raise ManifestError(f"{name}: has dictionaries, and documents have none; publish the snapshot again")
    claimed = sum(max(block.header_bytes, 1) + max(block.body_bytes, 0) for block in batches)
    if claimed > source.size():
        raise ManifestError(f"{name}: its batches claim {claimed} bytes, the file has {source.size()}; do not use this snapshot")
    for block in batches:
        source.seek(block.offset)
        message = _root(pa.ipc.read_message(source).metadata.to_pybytes())
        header = message.behind(_MESSAGE_HEADER)
        if header is None or _Table(message.content, header).field(_BATCH_COMPRESSION) is not None:
            raise ManifestError(f"{name}: is compressed, and documents are mapped as they are; publish the snapshot again")


def _footer(source: pa.NativeFile) -> _Table:
    size = source.size()
    length, magic = _TAIL.unpack(source.read_at(_TAIL.size, size - _TAIL.size))
    if magic != _MAGIC or not 0 < length <= size - _TAIL.size:
        raise struct.error("no footer")
    return _root(source.read_at(length, size - _TAIL.size - length))


def _root(content: bytes) -> _Table:
    return _Table(content, struct.unpack_from("<I", content)[0])
