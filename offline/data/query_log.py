"""A file of queries that nobody judged, such as a search log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline.data.lines import read_lines, read_objects
from offline.errors import DataError
from offline.progress import say

_MAX_CHARACTERS = 2000


def read_query_log(path: Path) -> list[str]:
    """Queries of a text file, one a line, or of a ``.jsonl`` file with ``text`` or ``query`` in each object; ``.gz`` too.

    Empty lines are passed over; so are lines of more than 2000 characters, whose number is told.

    Raises:
        DataError: the file is missing or not UTF-8, or a JSON line holds no query; names file:line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --query-log takes a text file with one query a line, or .jsonl")
    texts = [text for text in _texts(path) if text.strip()]
    kept = [text for text in texts if len(text) <= _MAX_CHARACTERS]
    if len(kept) < len(texts):
        say(f"warning: {path}: {len(texts) - len(kept)} lines are longer than {_MAX_CHARACTERS} characters and passed over")
    if not kept:
        say(f"warning: {path}: holds no query")
    return kept


def _texts(path: Path) -> Iterator[str]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return (_query(record, f"{path}:{line}") for line, record in read_objects(path))
    return (text for _, text in read_lines(path))


def _query(record: dict[str, Any], where: str) -> str:
    value = record.get("text", record.get("query"))
    if not isinstance(value, str):
        raise DataError(f"{where}: no string in 'text' or 'query'; each line must look like {{\"text\": \"...\"}}")
    return value
