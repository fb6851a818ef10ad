"""After a swap: are there more errors or late answers than before, by so much that it must be undone?

Pure: it is told the counts and the time, and says what it makes of them. Callers with short budgets are late with any
snapshot, and one of them may begin to ask just after a swap: so late answers are compared with those of requests that had
as much time before it. Where there were not enough of those, only requests with at least the default budget count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from service.budgets import Kind, Tally
from service.windows import wilson_of

_ENOUGH = 30
"""Answers of a kind before the swap; fewer do not say how many of it are late with any snapshot."""
_NONE = Tally(0, 0)


class Vitals(NamedTuple):
    """Answers of the routes that work on queries, counted since the start.

    Attributes:
        answers: all but those refused at the door, which no snapshot has seen.
        errors: of them, 500: faults of the service.
        late: of them, 504: the budget was spent; and 503 too_slow: it would be, so that another instance is asked.
        over_budget: of them, those that did not come within their own budget: the late ones, and what was sent too late.
        kinds: those whose budget is known and that were no faults, by route and budget.
    """

    answers: float
    errors: float
    late: float
    over_budget: float = 0.0
    kinds: Mapping[Kind, Tally] = MappingProxyType({})

    def __sub__(self, before: Vitals) -> Vitals:
        earlier = {kind: before.kinds.get(kind, _NONE) for kind in self.kinds}
        kinds = {
            kind: Tally(now.answers - earlier[kind].answers, now.late - earlier[kind].late) for kind, now in self.kinds.items()
        }
        return Vitals(
            self.answers - before.answers,
            self.errors - before.errors,
            self.late - before.late,
            self.over_budget - before.over_budget,
            kinds,
        )


class _Compared(NamedTuple):
    """Bad answers since the swap, and what share of them was to be expected by what was before it."""

    bad: float
    answers: float
    expected: float


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """When a swap is undone.

    Attributes:
        seconds: how long a snapshot is watched after it has begun to serve; 0: not at all.
        max_error_share: errors among the answers, beyond what the same time before the swap had; this much, without doubt.
        max_late_share: the same of late answers, among those whose budgets can be compared.
        min_answers: fewer say nothing.
    """

    seconds: float = 60.0
    max_error_share: float = 0.01
    max_late_share: float = 0.05
    min_answers: int = 100


class Watch:
    """Keeps the counts of the latest while, and compares those after a swap with those before it."""

    def __init__(self, options: WatchOptions, count: Callable[[], Vitals], clock: Callable[[], float]) -> None:
        self._options = options
        self._count = count
        self._clock = clock
        self._kept: deque[tuple[float, Vitals]] = deque()
        self._begun: tuple[float, Vitals] | None = None
        self._before = Vitals(0, 0, 0)

    @property
    def on(self) -> bool:
        """Whether a swap is being watched now."""
        return self._begun is not None and self._clock() - self._begun[0] < self._options.seconds

    def begin(self) -> None:
        """A snapshot has begun to serve."""
        now, found = self._clock(), self._count()
        self._forget(now)
        self._before = found - self._kept[0][1] if self._kept else Vitals(0, 0, 0)
        self._begun = (now, found)

    def end(self) -> None:
        """Watch no longer."""
        self._begun = None

    def look(self) -> str | None:
        """Called now and then: the reason to undo the swap, if there is one."""
        now, found = self._clock(), self._count()
        self._forget(now)
        self._kept.append((now, found))
        if self._begun is None or not self.on:
            self.end()
            return None
        return self._judge(found - self._begun[1])

    def _forget(self, now: float) -> None:
        while self._kept and now - self._kept[0][0] > self._options.seconds:
            self._kept.popleft()

    def _judge(self, since: Vitals) -> str | None:
        expected = self._before.errors / self._before.answers if self._before.answers else 0.0
        errors = _Compared(since.errors, since.answers, expected)
        return self._beyond("errors", errors, self._options.max_error_share) or self._beyond(
            "late", _late(since.kinds, self._before.kinds), self._options.max_late_share
        )

    def _beyond(self, name: str, found: _Compared, most: float) -> str | None:
        """A few answers may be bad by chance: the lower end of a 95% interval must be beyond the limit."""
        if found.answers < self._options.min_answers:
            return None
        share = found.bad / found.answers
        if wilson_of(share, found.answers)[0] - found.expected <= most:
            return None
        return (
            f"{name} {share:.1%} of {found.answers:.0f} answers since the swap, {found.expected:.1%} before it; "
            f"{most:.1%} more is the limit"
        )


def _late(since: Mapping[Kind, Tally], before: Mapping[Kind, Tally]) -> _Compared:
    """As if callers had asked before the swap as they ask after it."""
    answers, late, expected = 0, 0, 0.0
    for kind, now in since.items():
        earlier = before.get(kind, _NONE)
        if kind.octave >= 0 or earlier.answers >= _ENOUGH:
            answers, late = answers + now.answers, late + now.late
            expected += now.answers * earlier.late / earlier.answers if earlier.answers else 0.0
    return _Compared(late, answers, expected / answers if answers else 0.0)
