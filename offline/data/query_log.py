"""A file of queries that nobody judged, such as a search log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline.data.lines import parse_object, read_lines
from offline.errors import DataError
from offline.progress import say

_JSON = (".jsonl", ".ndjson", ".json")
_MAX_CHARACTERS = 2000
_MAX_BYTES = 1 << 16
"""More of a line is not read into memory; a JSON line may hold other things beside its query."""


def read_query_log(path: Path) -> list[str]:
    """Queries of a text file, one a line, or of a ``.jsonl`` file with ``text`` or ``query`` in each object; ``.gz`` too.

    ``.ndjson`` and ``.json`` are read as ``.jsonl``, and the case of the ending does not matter.

    Empty lines and lines of more than 2000 characters are passed over, and it is told how many and where the first is.

    Raises:
        DataError: the file is missing, binary or not UTF-8, or a JSON line holds no query; names file:line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --query-log takes a text file with one query a line, or .jsonl")
    kept: list[str] = []
    empty: list[int] = []
    long: list[int] = []
    for number, text in _texts(path):
        if text is None or len(text) > _MAX_CHARACTERS:
            long.append(number)
        elif not text.strip():
            empty.append(number)
        else:
            kept.append(text)
    for numbers, what in ((empty, "empty"), (long, f"longer than {_MAX_CHARACTERS} characters")):
        if numbers:
            say(f"warning: {path}:{numbers[0]}: {what}, and passed over; so are {len(numbers)} lines in all")
    if not kept:
        say(f"warning: {path}: holds no query")
    return kept


def _texts(path: Path) -> Iterator[tuple[int, str | None]]:
    """Each line's number and query; None for a line that is too long to be read."""
    is_json = path.name.lower().removesuffix(".gz").endswith(_JSON)
    for number, line in read_lines(path, _MAX_BYTES):
        if not is_json or not line.strip():
            yield number, line
        elif len(line.encode()) > _MAX_BYTES - 4:
            yield number, None  # cut, perhaps in the middle of a character
        else:
            yield number, _query(parse_object(line, f"{path}:{number}"), f"{path}:{number}")


def _query(record: dict[str, Any], where: str) -> str:
    value = record.get("text", record.get("query"))
    if not isinstance(value, str):
        raise DataError(f"{where}: no string in 'text' or 'query'; each line must look like {{\"text\": \"...\"}}")
    return value
