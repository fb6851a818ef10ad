"""The access log: which requests leave a line, and what is in it. Described in docs/logs.md."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import structlog

from service.api.call import Call
from service.errors import CallerGoneError, DrainingError, NoGenerationError, OverloadedError, TooSlowError
from service.pipeline import Answer, Embedded
from service.record import Record, Served
from service.sampling import Share
from service.settings import Settings
from service.stages import Search
from service.walk import Stage, Walk

Reason = Literal["failed", "starved", "slow", "sampled"]

SLOW_SHARE = 0.5
"""Of its budget, beyond which a request is slow unless a setting says from when."""
TURNED_AWAY = (OverloadedError.code, DrainingError.code, TooSlowError.code, NoGenerationError.code)
"""Refusals before any work: clients can cause any number of them, at no cost of theirs. Lines ``shedding`` count those at the
door, metrics all."""
_STARVED = (408, 504)
"""Where nothing was worked on: whoever sends slowly, or more than there are threads for, causes any number of them."""
_WAITING: tuple[Stage, ...] = ("queue", "reply")
PROBES = ("/livez", "/readyz", "/healthz")
"""Where 503 is an answer like any other."""
_UNKNOWN = Served(None)
_MOST_QUERIES = 8
_MOST_CHARACTERS = 256

_log = structlog.get_logger("service.access")


class AccessLog:
    """Decides by what is known when the answer is out."""

    def __init__(self, settings: Settings) -> None:
        self._share = Share(settings.access_log_sample)
        self._slow_seconds = None if settings.access_log_slow_ms is None else settings.access_log_slow_ms / 1000
        self._default_budget_ms = settings.default_timeout_ms
        self._shows_queries = settings.log_queries

    def reason(self, route: str, call: Call, status: int, seconds: float) -> Reason | None:
        """Why a request leaves a line, if it does."""
        if status in _STARVED and not _worked(call.walk):
            return "starved"
        is_turned_away = call.code in TURNED_AWAY
        if status >= 500 and not is_turned_away and route not in PROBES:
            return "failed"
        if not is_turned_away and seconds - call.incomplete_seconds > self._slow_after(call):
            return "slow"
        trace_id = call.trace_id
        chosen = self._share.has_request(call.request_id) if trace_id is None else self._share.has_trace(trace_id)
        return "sampled" if chosen else None

    def write(self, record: Record, reason: Reason, asked: Sequence[Search] | Sequence[str]) -> None:
        """Leave the line: a warning, which is written once and then counted, where clients can cause any number."""
        served = record.served or _UNKNOWN
        queries = {"queries": list(_shown(asked))} if self._shows_queries else {}
        _log.log(
            logging.WARNING if reason == "starved" else logging.INFO,
            "request",
            logged_as=reason,
            method=record.method,
            route=record.route,
            status=record.status,
            code=record.code,
            elapsed_ms=round(record.seconds * 1000, 3),
            budget_ms=None if record.budget_ms is None else round(record.budget_ms, 3),
            timings_ms={stage: round(value, 3) for stage, value in record.spent_ms.items()},
            snapshot=served.snapshot,
            items=record.items,
            k=record.k,
            effort=served.effort,
            exact=served.exact,
            degraded=list(served.degraded),
            request_id=record.request_id,
            trace_id=record.trace_id,
            **({} if record.key is None else {"key": record.key}),
            **({} if record.reason is None else {"reason": record.reason}),
            **queries,
        )

    def _slow_after(self, call: Call) -> float:
        if self._slow_seconds is not None:
            return self._slow_seconds
        budget_ms = self._default_budget_ms if call.walk is None else call.walk.deadline.budget_ms
        return budget_ms * SLOW_SHARE / 1000


def record_of(route: str, method: str, call: Call, status: int, seconds: float, key: str | None) -> Record:
    """What is known of a request whose answer is out."""
    walk, asked = call.walk, call.asked
    return Record(
        method=method,
        route=route,
        status=status,
        code=CallerGoneError.code if status == CallerGoneError.status else call.code,
        request_id=call.request_id,
        trace_id=call.trace_id,
        key=key,
        seconds=seconds,
        budget_ms=None if walk is None else walk.deadline.budget_ms,
        spent_ms={} if walk is None else _spent_ms(walk, seconds),
        items=len(asked) or None,
        k=max((each.k for each in asked if isinstance(each, Search)), default=None),
        served=_served(call.answered),
        span=call.span,
        reason=call.reason,
    )


def _worked(walk: Walk | None) -> bool:
    return walk is not None and any(stage not in _WAITING for stage in (*walk.spent_ms, walk.stage))


def _spent_ms(walk: Walk, seconds: float) -> dict[Stage, float]:
    """Where all of the time went: that of a stage whose end nobody waited for too."""
    return walk.spent_until(seconds * 1000) if walk.given_up else dict(walk.spent_ms)


def _served(answered: Answer | Embedded | None) -> Served | None:
    if answered is None:
        return None
    if isinstance(answered, Embedded):
        return Served(answered.snapshot)
    plans = [result.plan for result in answered.results]
    causes = {cause: None for plan in plans for cause in plan.causes}
    return Served(
        answered.snapshot,
        effort=min((plan.effort for plan in plans if not plan.exact), default=None),
        exact=all(plan.exact for plan in plans),
        degraded=tuple(causes),
        expected_recall=min(plan.expected_recall for plan in plans),
    )


def _shown(asked: Iterable[Search | str]) -> Iterable[str]:
    """The first few, each cut; what writes the line escapes them."""
    for _, each in zip(range(_MOST_QUERIES), asked, strict=False):
        query = each.query if isinstance(each, Search) else each
        yield query if len(query) <= _MOST_CHARACTERS else f"{query[:_MOST_CHARACTERS]}…"
