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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end) of a UTF-8 file; ``.gz`` is unpacked on the way.

    Raises:
        DataError: the file cannot be read, is damaged, or a line is not UTF-8 or holds a NUL byte.
    """
    number = 0
    try:
        with _open(path) as handle:
            for number, raw in enumerate(handle, start=1):
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
            yield number, _object(line, f"{path}:{number}")


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


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


def _object(line: str, where: str) -> dict[str, Any]:
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
