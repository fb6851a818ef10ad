"""Checks of a running service. Each is pure: what it said in, a finding out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from service.doctor.findings import Finding, Verdict
from service.settings import variable
from snapshot.cli import size

_LOADING = ("verifying", "opening", "proving", "warming", "shadowing")
_CROWDED, _FEW_CONNECTIONS = 0.8, 4096
_HEADROOM_LOW, _HEADROOM_GONE = 0.2, 0.1
_NO_KEY = ("HTTP 401", "HTTP 403")
_KEY = "the service wants an API key for searches: name a file that holds one with --key-file"
_BY_CODE = {
    "key_unknown": _KEY,
    "key_scope": _KEY,
    "key_rate_limited": "the key allows fewer searches than the doctor makes: name another key's file with --key-file, or wait",
    "overloaded": "docs/runbook.md#429",
    "too_slow": "docs/runbook.md#every-replica-sends-requests-elsewhere",
    "no_snapshot": "docs/runbook.md#readyz-answers-503",
    "draining": "it is being stopped: ask another replica",
    "engine_fault": "docs/milvus.md, and the service's log",
    "deadline_exceeded": "docs/runbook.md#504-or-degraded-in-many-answers",
    "internal": "docs/runbook.md#requests-end-in-5xx",
}
"""What to do about refused searches."""
_BUDGET_SHARE = 0.5
"""Of the budget, beyond which an idle service's search leaves too little for company."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer of ``/readyz``."""

    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Probes:
    """Searches that the doctor made.

    Attributes:
        timings_ms: of each that was answered, by stage, with ``total`` and ``round_trip``.
        refused: status and code of the others.
    """

    timings_ms: tuple[Mapping[str, float], ...]
    refused: tuple[str, ...]


def check_ready(ready: Ready) -> Finding:
    """Whether balancers should send requests here."""
    if ready.status == 200:
        return Finding("ready", "ok", "/readyz answers 200", "200")
    code, detail = ready.body.get("code", "no code"), ready.body.get("detail", "")
    return Finding(
        "ready", "wrong", f"/readyz answers {ready.status} {code}", "200", f"{detail}; docs/runbook.md#readyz-answers-503"
    )


def check_converged(desired: str | None, serving: str | None, state: str, code: str, reason: str) -> Finding:
    """Whether what operators want is what serves.

    Args:
        desired: id that is wanted.
        serving: id that answers.
        state: what is being done about it.
        code: of the last failure; empty where there was none.
        reason: of the same.
    """
    seen = f"desired {desired or 'nothing'}, serving {serving or 'nothing'}, {state}"
    expected = "what is desired serves"
    if desired == serving and desired is not None:
        return Finding("converged", "ok", seen, expected)
    if state in _LOADING and not code:  # what was refused is loaded again now and then, and will be refused again
        return Finding("converged", "warn", seen, expected, "it is being loaded: look again in a minute, or at /snapshots/swap")
    advice = (
        f"{code}: {reason}; docs/runbook.md#the-desired-snapshot-is-not-the-one-that-serves" if code else "activate a snapshot"
    )
    return Finding("converged", "wrong", seen, expected, advice)


def check_remote(state: str, code: str | None, reason: str | None) -> Finding:
    """Whether what is wanted in the remote registry arrives."""
    advice = f"{code}: {reason}; docs/runbook.md#a-snapshot-does-not-arrive-from-the-object-store"
    return Finding.of("remote_registry", "wrong" if state == "failing" else "ok", state, "following or pulling", advice)


def check_engine(state: str, reason: str | None) -> Finding:
    """Whether the server that keeps the vectors is asked."""
    advice = f"{reason}; docs/milvus.md#what-can-go-wrong"
    return Finding.of("engine", "ok" if state == "closed" else "wrong", state, "closed: searches go there", advice)


def check_proof(
    proven: bool, found: tuple[float, float], bounds: tuple[float, float], failure: tuple[str, str] | None = None
) -> Finding:
    """Whether what serves reproduces its golden answers, as it proved last.

    Args:
        proven: the service's own verdict.
        found: worst cosine distance, and recall, of the last proof that passed.
        bounds: most of the first, least of the second.
        failure: code and reason of the last proof, where it failed and the service says why.
    """
    fits = found[0] <= bounds[0] and found[1] >= bounds[1]
    seen = f"cosine distance {found[0]:.2e}, recall {found[1]:.3f}"
    advice = "a file has changed, or the machine computes otherwise: python -m snapshot rollback --why …, and look at the disk"
    if failure is not None:
        advice = f"{failure[1]}; {advice}"
    if failure is not None or not proven:
        seen = f"failed ({failure[0] if failure else 'the log says why'}); before that {seen}"
    verdict: Verdict = "ok" if proven and fits and failure is None else "wrong"
    return Finding.of("proof", verdict, seen, f"at most {bounds[0]:.2e}, at least {bounds[1]:.3f}", advice)


def check_live(high: tuple[float | None, float | None], targets: tuple[float, float]) -> list[Finding]:
    """Live recall and overlap with the teacher, by the upper ends of their intervals; nothing where they are not measured."""
    checks = (
        ("live_recall", "of exact search's best at most, by live searches", "docs/runbook.md#recall-is-low"),
        ("teacher_overlap", "of the teacher's documents at most, by live queries", "docs/runbook.md#real-queries-drift-away"),
    )
    return [
        Finding.of(name, "wrong" if value < target else "ok", f"{value:.3f} {words}", f"at least {target:g}", advice)
        for (name, words, advice), value, target in zip(checks, high, targets, strict=True)
        if value is not None and value == value  # NaN: nothing was measured yet
    ]


def check_headroom(available: float | None, resident: float | None) -> Finding:
    """Whether memory is left, as the alert ScalingNoteMemory reckons."""
    if available is None or resident is None:
        return Finding("memory", "unknown", "the service does not say", "a fifth left", "look at the machine's own tools")
    share = available / (available + resident)
    verdict: Verdict = "wrong" if share < _HEADROOM_GONE else "warn" if share < _HEADROOM_LOW else "ok"
    seen = f"{size(int(available))} left beside {size(int(resident))} resident"
    advice = f"a swap needs more: docs/runbook.md#memory-runs-short ({variable('keep_former')}=false, smaller caches, more)"
    return Finding.of("memory", verdict, seen, f"at least {_HEADROOM_LOW:.0%} of both", advice)


def check_connections(now: float | None, limit: float | None, asked: int | None) -> Finding:
    """Whether there is room for clients."""
    if now is None or limit is None:
        return Finding("connections", "unknown", "the service does not say", "fewer than the limit", "is a proxy between?")
    seen, expected = f"{now:.0f} of {limit:.0f}", f"fewer than {_CROWDED:.0%} of the limit, and a limit as configured"
    crowded, low = now > _CROWDED * limit, limit < (asked or _FEW_CONNECTIONS)
    verdict: Verdict = "wrong" if asked is not None and limit < asked else "warn" if crowded or low else "ok"
    advice = "raise the hard limit on open files (ulimit -Hn, LimitNOFILE=); docs/runbook.md#connections-are-closed-or-refused"
    return Finding.of("connections", verdict, seen, expected, advice)


def check_operators(on: bool) -> Finding:
    """Whether operators' routes are on."""
    advice = f"nobody can activate or roll back over HTTP: set {variable('admin_tokens_file')}"
    return Finding.of("tokens", "ok" if on else "warn", "on" if on else "operators' routes are off", "a file of tokens", advice)


def check_keys(valid: bool) -> Finding:
    """Whether the file of API keys is the one that holds."""
    advice = (
        "the keys before it hold, also revoked ones; the log has the line, under api_keys_invalid: python -m service key list"
    )
    seen = "right" if valid else "a line of the file is wrong"
    return Finding.of("api_keys", "ok" if valid else "wrong", seen, "a file that is right", advice)


def check_budget(probes: Probes, budget_ms: float) -> Finding:
    """Whether single searches are answered well within the default budget."""
    expected = f"each answered, within {_BUDGET_SHARE:.0%} of {budget_ms:g} ms"
    if not probes.timings_ms:
        return _unanswered(probes.refused, expected)
    totals = [timings["total"] for timings in probes.timings_ms]
    trips = [timings["round_trip"] for timings in probes.timings_ms]
    seen = f"median {median(totals):.3g} ms ({_stages(probes.timings_ms)}), round trip {median(trips):.3g} ms"
    if probes.refused:
        seen += f"; {len(probes.refused)} refused ({', '.join(sorted(set(probes.refused)))})"
    late = median(totals) > _BUDGET_SHARE * budget_ms
    refused = [one for one in probes.refused if not _by_key(one)]  # what a key may not do says nothing of the service
    verdict: Verdict = "wrong" if median(totals) > budget_ms else "warn" if late or refused else "ok"
    slow = f"see which stage takes it (explain shows one query); a longer {variable('default_timeout_ms')}, or a faster machine"
    return Finding.of("budget", verdict, seen, expected, slow if late else _about(refused))


def _unanswered(refused: Sequence[str], expected: str) -> Finding:
    if refused and all(map(_by_key, refused)):
        return Finding("budget", "unknown", f"no search was allowed ({refused[0]})", expected, _about(refused))
    told = ", ".join(sorted(set(refused))) or "nothing serves"
    advice = _about(refused) if refused else f"see ready; {_BY_CODE['no_snapshot']}"
    return Finding("budget", "wrong", f"no search was answered ({told})", expected, advice)


def _by_key(refused: str) -> bool:
    return refused.startswith(_NO_KEY) or _code(refused) == "key_rate_limited"


def _about(refused: Sequence[str]) -> str:
    """What to do about refusals, by code."""
    return "; ".join(sorted({_BY_CODE.get(_code(one), "docs/api.md#errors, and the service's log") for one in refused}))


def _code(refused: str) -> str:
    return refused.split()[-1]


def _stages(timings: Sequence[Mapping[str, float]]) -> str:
    names = [name for name in timings[0] if name not in ("total", "round_trip")]
    return ", ".join(f"{name} {median([each.get(name, 0.0) for each in timings]):.2g}" for name in names)
