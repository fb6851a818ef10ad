"""What others wrote, for a terminal: shown, and not obeyed."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without control characters; names and reasons come from anybody who may write."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
