"""Checks of how a running service's requests fare, by its last minutes. Since the start is told, and judges nothing: a day of
health hides an outage, and an outage outlasts its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.doctor.findings import Finding, Verdict

_FAULT_SHARE, _SHED_SHARE = 0.001, 0.01
_ENOUGH = 100
"""Answers below which a share of them says nothing."""
_NOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Answers of the routes that work on queries, in some time.

    Attributes:
        answers: all, refusals among them.
        faults: of them, 500s.
        late: of them, those beyond their budget.
        shed: of them, refusals for overload.
    """

    answers: float = 0.0
    faults: float = 0.0
    late: float = 0.0
    shed: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.answers + other.answers, self.faults + other.faults, self.late + other.late, self.shed + other.shed)


@dataclass(frozen=True, slots=True)
class Span:
    """Traffic of so many seconds."""

    seconds: float
    traffic: Traffic


def lately(samples: Sequence[Span], least_answers: float = 0.0) -> Span:
    """The last minute, or as much more of these samples, the oldest first, as so many answers took."""
    seconds, traffic = 0.0, Traffic()
    for sample in reversed(samples):
        if seconds >= _NOW_SECONDS and traffic.answers >= least_answers:
            break
        seconds, traffic = seconds + sample.seconds, traffic + sample.traffic
    return Span(seconds, traffic)


def check_traffic(samples: Sequence[Span], start: Traffic, in_budget: float) -> list[Finding]:
    """Shares of the latest answers that were faults, late, or refused.

    Args:
        samples: the last minutes, the oldest first.
        start: all since the process began.
        in_budget: the objective.
    """
    now, latest = lately(samples).traffic, lately(samples, _ENOUGH)
    bounds = (
        ("faults", _FAULT_SHARE, "the log has each traceback under unhandled_error; docs/runbook.md#requests-end-in-5xx"),
        ("late", 1 - in_budget, "docs/runbook.md#504-or-degraded-in-many-answers"),
        ("shed", _SHED_SHARE, "more replicas, or cheaper searches; docs/runbook.md#429"),
    )
    return [_finding(name, most, advice, now, latest, start) for name, most, advice in bounds]


def _finding(name: str, most: float, advice: str, now: Traffic, latest: Span, start: Traffic) -> Finding:
    count, answers = getattr(latest.traffic, name), latest.traffic.answers
    verdict = _verdict(count, answers, most, present=getattr(now, name) > 0)
    before = _share(getattr(start, name), start.answers)
    seen = f"{count:.0f} of {answers:.0f} in the last {latest.seconds:.0f} s; {before} since the start"
    check = "refused" if name == "shed" else name
    return Finding.of(check, verdict, seen, f"at most {most:.2%}" if answers >= _ENOUGH else "none", advice)


def _verdict(count: float, answers: float, most: float, *, present: bool) -> Verdict:
    """What is over is worth a look, and no longer wrong."""
    if answers < _ENOUGH:
        return "warn" if count else "ok"
    return "ok" if count <= most * answers else "wrong" if present else "warn"


def _share(count: float, answers: float) -> str:
    return f"{count / answers:.2%}" if answers else "none"
