"""After a swap: are there more errors or late answers than before, by so much that it must be undone?

Pure: it is told the counts and the time, and says what it makes of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Vitals(NamedTuple):
    """Answers of the routes that work on queries, counted since the start.

    Attributes:
        answers: all but those refused at the door, which no snapshot has seen.
        errors: of them, 500: faults of the service.
        late: of them, 504: the budget was spent; and 503 too_slow: it would be, so that another instance is asked.
        over_budget: of them, those that did not come within their own budget: the late ones, and what was sent too late.
    """

    answers: float
    errors: float
    late: float
    over_budget: float = 0.0

    def __sub__(self, before: Vitals) -> Vitals:
        return Vitals(*(late - early for late, early in zip(self, before, strict=True)))


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """When a swap is undone.

    Attributes:
        seconds: how long a snapshot is watched after it has begun to serve; 0: not at all.
        max_error_share: errors among the answers, beyond what the same time before the swap had.
        max_late_share: the same of late answers.
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
        if since.answers < self._options.min_answers:
            return None
        for name, most in (("errors", self._options.max_error_share), ("late", self._options.max_late_share)):
            share, before = _share(since, name), _share(self._before, name)
            if share - before > most:
                return (
                    f"{name} {share:.1%} of {since.answers:.0f} answers since the swap, {before:.1%} before it; "
                    f"{most:.1%} more is the limit"
                )
        return None


def _share(vitals: Vitals, name: str) -> float:
    return float(getattr(vitals, name)) / vitals.answers if vitals.answers else 0.0
