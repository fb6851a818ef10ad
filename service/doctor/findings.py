"""What a check has found, and how it is shown: a table for people, JSON for machines, an exit code for both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import typer

from snapshot.cli import print_json, print_table
from snapshot.printable import printable

Verdict = Literal["ok", "warn", "wrong", "unknown"]
"""``warn``: it costs something, or soon will; ``wrong``: it has to be put right; ``unknown``: it could not be looked at."""

_ORDER: tuple[Verdict, ...] = ("wrong", "warn", "unknown", "ok")
SOMETHING_WRONG = 1
CANNOT_CHECK = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name, the same in each run.
        seen: what was found, with units.
        expected: what would be right.
        advice: what to do; empty where all is well.
    """

    check: str
    verdict: Verdict
    seen: str
    expected: str
    advice: str = ""

    @classmethod
    def of(cls, check: str, verdict: Verdict, seen: str, expected: str, advice: str) -> Finding:
        """With ``advice`` only where there is something to do."""
        return cls(check, verdict, seen, expected, "" if verdict == "ok" else advice)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one run, about ``subject``: a registry or a URL."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong (warnings are not), else 1."""
        return SOMETHING_WRONG if any(finding.verdict == "wrong" for finding in self.findings) else 0

    def count(self, verdict: Verdict) -> int:
        return sum(finding.verdict == verdict for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        counts: dict[str, Any] = {verdict: self.count(verdict) for verdict in _ORDER}
        return {"subject": self.subject, **counts, "findings": [asdict(finding) for finding in self.findings]}


def show(report: Report, as_json: bool) -> int:
    """Print a report; the exit code."""
    if as_json:
        print_json(report.as_dict())
    else:
        rows = [(found.verdict, found.check, found.seen, found.expected) for found in by_urgency(report.findings)]
        typer.echo(f"doctor: {printable(report.subject)}")
        print_table(("verdict", "check", "seen", "expected"), rows)
        for found in by_urgency(report.findings):
            if found.advice:
                typer.echo(printable(f"{found.verdict}: {found.check}: {found.advice}"))
        typer.echo(_summary(report))
    return report.exit_code


def by_urgency(findings: Iterable[Finding]) -> list[Finding]:
    """What is wrong first; otherwise in the order of the checks."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.verdict))


def _summary(report: Report) -> str:
    wrong, warn, unknown = (report.count(verdict) for verdict in ("wrong", "warn", "unknown"))
    total = len(report.findings)
    return f"{total} checks: {wrong} wrong, {warn} to mind, {unknown} unknown, {total - wrong - warn - unknown} well"
