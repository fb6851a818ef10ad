"""Reading lines and JSON lines, plain or gzipped, so that every fault is reported as file:line with a remedy."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from offline.errors import DataError

_LENGTHS = (2, 2, 3, 4)
"""Bytes of a UTF-8 character, by the third and fourth bit of its first byte."""


def read_lines(path: Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end) of a UTF-8 file; ``.gz`` is unpacked on the way.

    Of a line of more than ``limit`` bytes only so many are read, and half a character at their end is dropped.

    Raises:
        DataError: the file cannot be read, is damaged, or a line is not UTF-8 or holds a NUL byte.
    """
    number = 0
    try:
        with _open(path) as handle:
            for number, raw in enumerate(handle if limit is None else _cut_lines(handle, limit), start=1):
                yield number, _decode(raw, path, number)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: damaged gzip ({error}); compress or copy the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file with one JSON object a line; empty lines are passed over.

    Raises:
        DataError: as ``read_lines``, or a line is not one JSON object.
    """
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_object(line, f"{path}:{number}")


def _cut_lines(handle: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines, none of which is ever in memory as a whole where it is longer than ``limit`` bytes."""
    while raw := handle.readline(limit):
        yield raw if raw.endswith(b"\n") else _whole_characters(raw)
        while raw and not raw.endswith(b"\n"):
            raw = handle.readline(limit)


def _whole_characters(raw: bytes) -> bytes:
    """Without the up to three bytes of a character that was cut; other bytes that are not UTF-8 stay, to be refused."""
    for size in range(1, min(3, len(raw)) + 1):
        if raw[-size] >= 0xC0:
            return raw[:-size] if _LENGTHS[raw[-size] >> 4 & 3] > size else raw
    return raw


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _decode(raw: bytes, path: Path, number: int) -> str:
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\0" in raw:
        raise DataError(f"{path}:{number}: holds a NUL byte, so it is binary or UTF-16; give a UTF-8 text file")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}); convert the file to UTF-8"
        ) from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object of one line; ``where`` is file:line.

    Raises:
        DataError: it is not one JSON object.
    """
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); each line must be one JSON object") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}; each line must be one JSON object of plain values") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}, not an object; each line must look like {{...}}")
    if "\\u" in line:
        _check_encodable(value, where)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_encodable(value: dict[str, Any], where: str) -> None:
    """Escapes may spell half a surrogate pair, which is no character and cannot be stored."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: holds half of a surrogate pair ({error.object[error.start]!a}); write the whole character"
        ) from error
