"""Faulty lines that may be left out: a few are told in one warning, many end the run, since then what wrote the data is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offline.errors import DataError
from offline.progress import say

HANDFUL, SHARE = 5, 0.01
"""So many lines of a file may be faulty, or such a share of them if that is more; but not most of them."""
_LEAVE_OUT = "to leave out all such, with a warning: --set data.leave_out_faulty=true"


@dataclass
class Faults:
    """Lines of one file that are left out for the same reason.

    Attributes:
        path: the file.
        what: what the lines are, such as ``documents``.
        unlimited: whether to leave out however many there are.
    """

    path: Path
    what: str
    unlimited: bool
    _first: str = ""
    _remedy: str = ""
    _count: int = 0
    _blameless: int = 0

    def add(self, line: int, reason: str, remedy: str, *, follows: bool = False) -> None:
        """Leave out a line; ``follows`` says that it is only faulty because another one was left out, and does not count."""
        if not self._first or (self._count == self._blameless and not follows):
            self._first, self._remedy = f"{self.path}:{line}: {reason}", remedy
        self._count += 1
        self._blameless += follows

    def settle(self, lines: int) -> None:
        """Judge the faults of a file of so many lines, once it is read.

        Raises:
            DataError: they are more than a few.
        """
        if not self._count:
            return
        guilty = self._count - self._blameless
        if not self.unlimited and (guilty > max(HANDFUL, SHARE * lines) or 2 * guilty > lines):
            raise DataError(
                f"{self._first}. {guilty} of {lines} {self.what} are like it, too many to leave out. {self._remedy}; {_LEAVE_OUT}"
            )
        say(f"warning: {self._first}; {self._count} of {lines} {self.what} are like it and left out")
