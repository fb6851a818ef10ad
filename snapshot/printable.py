"""What others wrote, for a terminal: shown, and not obeyed."""

from __future__ import annotations

import io
import sys


def escape_what_cannot_be_printed() -> None:
    """What the encoding of standard output or error lacks (LC_ALL=C) is escaped, where it would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """``text`` without control characters; names and reasons come from anybody who may write."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
