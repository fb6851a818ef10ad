"""What a case found: a line for each figure with the bound that it must keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One figure; ``timing`` where it depends on how busy the machine is."""

    case: str
    what: str
    figure: float
    bound: str
    ok: bool
    timing: bool

    def __str__(self) -> str:
        return f"LOAD {self.case} {self.what} {self.figure:g} {self.bound} {'ok' if self.ok else 'short'}"


class Report:
    """The lines of one case; each is printed when it is known."""

    def __init__(self, case: str) -> None:
        self._case = case
        self.lines: list[Line] = []

    def most(self, what: str, figure: float, bound: float, *, timing: bool = False) -> None:
        """``figure`` may be ``bound`` at most."""
        self._add(what, figure, f"<={bound:g}", figure <= bound, timing)

    def least(self, what: str, figure: float, bound: float, *, timing: bool = False) -> None:
        """``figure`` must be ``bound`` at least."""
        self._add(what, figure, f">={bound:g}", figure >= bound, timing)

    def _add(self, what: str, figure: float, bound: str, ok: bool, timing: bool) -> None:
        self.lines.append(Line(self._case, what, round(figure, 3), bound, ok, timing))
        print(self.lines[-1], flush=True)
