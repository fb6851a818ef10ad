"""What operators want, what serves, and whether this instance is ready: one reading for /readyz, /info and /snapshots."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from service.engines.breaker import breaker_of
from service.errors import DrainingError, NoGenerationError, UnavailableError
from service.parts import Parts
from service.progress import AT_REST
from service.swap import SwapState

LOADING = tuple(state for state in SwapState if state not in AT_REST)
"""A snapshot is on its way to serve; the shadow, which may take a minute, is a part of that."""


def unready(parts: Parts) -> UnavailableError | None:
    """Why this instance should not get requests, and what to do; None where it should."""
    if parts.limiter.draining:
        return DrainingError("this instance is shutting down; send requests to another one")
    if parts.generations.serving is not None:
        return None
    failure, state = parts.follower.last_error, parts.generations.state
    if state in LOADING:
        return NoGenerationError(f"{parts.follower.desired} is being loaded ({state}); wait a moment")
    if failure is not None:
        refused = failure.attempts > 0
        return NoGenerationError(f"{failure.code}: {failure.reason}" if refused else failure.reason)
    return NoGenerationError(f"{parts.settings.registry}: the registry has not been read yet; wait a moment")


def status(parts: Parts) -> dict[str, Any]:
    """A StatusModel."""
    failure = parts.follower.last_error
    return {
        "desired": parts.follower.desired,
        "serving": parts.generations.serving,
        "state": parts.generations.state.value,
        "last_error": None if failure is None else {**asdict(failure), "at": failure.at.isoformat(timespec="seconds")},
    }


def proof_status(parts: Parts) -> dict[str, Any] | None:
    """A ProofModel."""
    current, failed = parts.generations.current, parts.follower.disproof
    if current is None:
        return None
    failure = (
        None if failed is None else {"code": failed.code, "reason": failed.reason, "at": failed.at.isoformat("T", "seconds")}
    )
    return {**asdict(current.proof), "failure": failure}


def engine_status(parts: Parts) -> dict[str, Any] | None:
    """An EngineModel: also where the server is, which callers of searches are not told."""
    current = parts.generations.current
    breaker = None if current is None else breaker_of(current.engine)
    if breaker is None:
        return None
    state, failure = breaker.look()
    return {
        "state": state.value,
        "code": None if failure is None else getattr(failure, "code", "internal"),
        "reason": None if failure is None else str(failure),
    }


def trial_status(parts: Parts) -> dict[str, Any] | None:
    """A TrialModel."""
    trial = parts.trials.running
    if trial is None:
        return None
    desire = trial.desire
    left = round(parts.trials.left_seconds(trial), 1)
    before = trial.instead_of.snapshot if trial.instead_of is not None else None
    named = {"snapshot": desire.snapshot, "instead_of": before, "who": desire.who, "why": desire.why}
    return {**named, "ends_in_seconds": left}


def remote_status(parts: Parts) -> dict[str, Any] | None:
    """A RemoteModel."""
    if parts.mirror is None:
        return None
    described = asdict(parts.mirror.status)
    at = parts.mirror.status.succeeded_at
    return {**described, "state": described["state"].value, "succeeded_at": at and at.isoformat(timespec="seconds")}


def refresh_gauges(parts: Parts) -> None:
    """Bring the gauges up to date that nobody tells of a change."""
    parts.metrics.ready.set(unready(parts) is None)
    parts.metrics.in_flight.set(parts.limiter.in_flight)
    parts.metrics.limit.set(parts.limiter.limit)
    parts.metrics.observe_desired(parts.follower.desired, parts.generations.serving)
