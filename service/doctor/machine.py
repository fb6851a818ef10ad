"""What the machine gives to a service: cores, threads, memory, files. Each check is pure: figures in, a finding out."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from service.cgroup import Usage, read_usage
from service.control_groups import cpu_quota
from service.cores import ThreadPlan, available_cores, cores_by_affinity, plan_threads
from service.descriptors import connections_within
from service.doctor.findings import Finding, Verdict
from service.memory import available_bytes
from service.settings import PREFIX, Settings, variable
from service.settings_unknown import unknown_variables
from snapshot.cli import size

_THROTTLED_SHARE = 0.05
"""Of the periods; beyond, it is seen in the latencies (docs/metrics.md)."""
_FEW_CONNECTIONS, _TOO_FEW_CONNECTIONS = 4096, 256
_MEMORY_LOW = 0.1


def check_machine(settings: Settings) -> list[Finding]:
    """Read the figures, and judge them."""
    usage = read_usage()
    plan = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        check_cores(os.cpu_count() or 1, cores_by_affinity(), cpu_quota()),
        check_threads(plan),
        check_throttling(usage),
        check_memory(available_bytes(), usage.memory_limit_bytes),
        check_files(hard, settings.max_connections),
        check_variables(unknown_variables(os.environ)),
    ]


def check_cores(machine: int, affinity: int, quota: float | None) -> Finding:
    """Whether the service has a core at least.

    Args:
        machine: cores that there are.
        affinity: cores that the scheduler lets the process use.
        quota: cores of processor time by the control groups; None: no quota.
    """
    seen = f"{affinity} of {machine} cores, quota {_quota(quota)}"
    expected = "at least one whole core"
    counted = min(affinity, quota) if quota is not None else affinity
    verdict: Verdict = "wrong" if counted < 1 else "ok"
    advice = "a request that needs more than the quota of a period stands still until the next: give at least 1 core"
    return Finding.of("cores", verdict, seen, expected, advice)


def check_threads(plan: ThreadPlan) -> Finding:
    """Whether more threads may compute at once than there are cores."""
    seen = f"{plan.most} compute at once ({plan.workers} workers, {plan.encoder} a call of the query tower)"
    advice = (
        f"threads that share a core make each other late: leave {variable('threads')} and {variable('encoder_threads')} unset, "
        f"or divide {plan.cores} between them"
    )
    return Finding.of("threads", "wrong" if plan.most > plan.cores else "ok", seen, f"at most {plan.cores}, the cores", advice)


def check_throttling(usage: Usage) -> Finding:
    """Whether the control group has made threads wait for processor time, since it was made."""
    expected = f"in less than {_THROTTLED_SHARE:.0%} of the periods"
    if usage.periods is None or usage.throttled_periods is None or usage.periods == 0:
        return Finding("throttling", "ok", "no quota is accounted", expected)
    share = usage.throttled_periods / usage.periods
    seen = f"throttled in {share:.1%} of {usage.periods:.0f} periods, {usage.throttled_seconds or 0:.1f} s in all"
    advice = "raise the quota (limits.cpu of the container), or remove it; fewer threads do not help a request that waits"
    return Finding.of("throttling", "warn" if share >= _THROTTLED_SHARE else "ok", seen, expected, advice)


def check_memory(available: int | None, limit: float | None) -> Finding:
    """How much is left; whether two snapshots fit into it is another check."""
    expected = f"at least {_MEMORY_LOW:.0%} of the limit left"
    if available is None:
        return Finding("memory", "unknown", "the system does not say", expected, "look at the machine's own tools")
    seen = f"{size(available)} left" + ("" if limit is None else f", limit {size(int(limit))}")
    short = limit is not None and available < _MEMORY_LOW * limit
    advice = f"give it more, or lower {variable('query_cache_bytes')} and {variable('filter_cache_bytes')}"
    return Finding.of("memory", "wrong" if short else "ok", seen, expected, advice)


def check_files(hard: int, asked: int | None) -> Finding:
    """Whether the limit on open files leaves enough connections; the service itself raises the soft limit to the hard one.

    Args:
        hard: limit on open files, or ``resource.RLIM_INFINITY``.
        asked: the setting ``max_connections``.
    """
    possible = connections_within(hard, asked)
    limit = "no limit" if hard == resource.RLIM_INFINITY else f"limit {hard}"
    seen = f"{possible} connections ({limit})"
    short = possible < asked if asked is not None else possible < _TOO_FEW_CONNECTIONS
    expected = f"{asked} connections, as configured" if asked is not None else f"at least {_FEW_CONNECTIONS} connections"
    few = asked is None and possible < _FEW_CONNECTIONS
    verdict: Verdict = "wrong" if short else "warn" if few else "ok"
    advice = "beyond, clients are closed or get 503: raise the hard limit on open files (ulimit -Hn, LimitNOFILE=, --ulimit)"
    return Finding.of("files", verdict, seen, expected, advice)


def check_variables(unknown: Mapping[str, str | None]) -> Finding:
    """Whether a variable looks like a setting and is none: it is ignored.

    Args:
        unknown: their names, each with the one that was probably meant.
    """
    expected = f"every {PREFIX}… variable is a setting"
    seen = f"not settings: {', '.join(unknown)}" if unknown else "no other"
    guesses = [f"{name}: did you mean {meant}?" for name, meant in unknown.items() if meant is not None]
    advice = " ".join([*guesses, "They are ignored: correct or remove them; all settings are in docs/configuration.md"])
    return Finding.of("variables", "warn" if unknown else "ok", seen, expected, advice)


def _quota(quota: float | None) -> str:
    return "none" if quota is None else f"{quota:g}"
