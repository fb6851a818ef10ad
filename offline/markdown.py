"""Tables and cells in Markdown, and how figures are written in them."""

from __future__ import annotations

from collections.abc import Sequence

from offline.bootstrap import Interval

_CELL_CHARACTERS = 70


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """One line that cannot break the table or start markup."""
    line = " ".join(text.split())
    short = line if len(line) <= _CELL_CHARACTERS else f"{line[: _CELL_CHARACTERS - 1]}…"
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in short)


def estimate(found: Interval) -> str:
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def difference(found: Interval) -> str:
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def yes(value: bool) -> str:
    return "yes" if value else "no"
