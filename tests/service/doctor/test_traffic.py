"""Faults, late answers and refusals are judged by the last minutes."""

from __future__ import annotations

import pytest

from service.doctor.findings import Finding
from service.doctor.traffic import Span, Traffic, check_traffic

WELL, DOWN = Traffic(500), Traffic(500, faults=400, late=50, shed=50)
QUIET, IDLE = Traffic(5), Traffic()
LONG = Traffic(1e9)


def judged(*last: Traffic, start: Traffic = LONG) -> list[Finding]:
    return check_traffic([Span(5.0, each) for each in last], start, 0.99)


def verdicts(*last: Traffic, start: Traffic = LONG) -> set[str]:
    return {found.verdict for found in judged(*last, start=start)}


def test_an_outage_is_seen_at_once_whatever_was_before() -> None:
    assert verdicts(*[WELL] * 170, *[DOWN] * 3) == {"wrong"}
    assert verdicts(DOWN) == {"wrong"}


def test_what_is_over_is_no_longer_wrong() -> None:
    assert verdicts(*[DOWN] * 10, *[WELL] * 16, start=DOWN) == {"ok"}
    assert verdicts(*[DOWN] * 10, *[IDLE] * 16, start=DOWN) == {"warn"}


def test_without_traffic_nothing_is_wrong() -> None:
    assert verdicts() == verdicts(IDLE) == {"ok"}
    assert judged()[0].seen == "0 of 0 in the last 0 s; 0.00% since the start"
    assert "none since the start" in judged(start=Traffic())[0].seen


def test_of_a_quiet_service_more_than_a_minute_is_looked_at() -> None:
    assert verdicts(*[QUIET] * 40, *[Traffic(5, 5, 5, 5)] * 2) == {"wrong"}
    assert verdicts(Traffic(9, 1, 1, 1)) == {"warn"}


@pytest.mark.parametrize(("count", "verdict"), [(0, "ok"), (1, "ok"), (2, "wrong")])
def test_bounds_are_shares(count: int, verdict: str) -> None:
    [faults, late, refused] = judged(Traffic(1000, count, 10 * count, 10 * count))
    assert [faults.verdict, late.verdict, refused.verdict] == [verdict] * 3
    assert (faults.check, late.check, refused.check) == ("faults", "late", "refused")
    assert refused.seen.startswith(f"{10 * count} of 1000 in the last 5 s")
