"""A running service from outside: what it says of itself, and how it answers a few searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from statistics import median
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from service.ask import Asker, Reply
from service.cgroup import Usage
from service.cores import ThreadPlan
from service.doctor.findings import Finding
from service.doctor.libraries import check_skew
from service.doctor.machine import check_threads, check_throttling
from service.doctor.running import (
    Probes,
    Ready,
    check_budget,
    check_connections,
    check_converged,
    check_engine,
    check_headroom,
    check_keys,
    check_live,
    check_operators,
    check_proof,
    check_ready,
    check_remote,
)
from service.doctor.timings import Timing, check_timing
from service.doctor.traffic import Span, Traffic, check_traffic
from service.errors import UnreachableError
from service.metrics import WORK_ROUTES
from snapshot.errors import ManifestError
from snapshot.manifest import Effort

_PROBES = ("where is it described", "how do I begin", "a list of names", "compare two values", "the end of the work")
"""Any text does: what is asked is how long it takes."""
_ROUNDS = 3
_DATE_SECONDS = 1.0
"""A Date header tells whole seconds, and the service renews it once a second: it is up to two of these behind, one on average."""


class _Failure(BaseModel):
    code: str
    reason: str


class _Index(BaseModel):
    default_effort: int
    efforts: tuple[Effort, ...]


class _Golden(BaseModel):
    min_recall: float
    max_cosine_distance: float


class _Snapshot(BaseModel):
    id: str
    index: _Index
    golden: _Golden


class _Remote(BaseModel):
    state: str
    code: str | None = None
    reason: str | None = None


class _Engine(BaseModel):
    state: str
    reason: str | None = None


class _Proof(BaseModel):
    max_cosine_distance: float
    recall: float
    failure: _Failure | None = None


class _Settings(BaseModel):
    default_timeout_ms: float = 1000.0
    max_connections: int | None = None
    admin_tokens_file: str | None = None
    api_keys_file: str | None = None
    slo_recall: float = 0.9
    slo_overlap: float = 0.6
    slo_in_budget: float = 0.99


class Info(BaseModel):
    """What is needed of ``/info``; more may come, and does."""

    version: str
    desired: str | None
    serving: str | None
    state: str
    last_error: _Failure | None = None
    remote: _Remote | None = None
    snapshot: _Snapshot | None = None
    proof: _Proof | None = None
    engine: _Engine | None = None
    threads: dict[str, int]
    settings: _Settings


class _Sample(BaseModel):
    seconds: float
    answers_per_second: float
    in_budget_share: float | None
    shed_per_second: float
    failed_per_second: float

    def span(self) -> Span:
        """As counts; ``in_budget_share`` takes faults for late."""
        answers, faults, shed = (
            rate * self.seconds for rate in (self.answers_per_second, self.failed_per_second, self.shed_per_second)
        )
        late = 0.0 if self.in_budget_share is None else (1 - self.in_budget_share) * answers - faults
        return Span(self.seconds, Traffic(*(float(round(count)) for count in (answers + shed, faults, max(0.0, late), shed))))


class History(BaseModel):
    """What is needed of ``/history``."""

    samples: tuple[_Sample, ...]


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Samples:
    """Series of ``/metrics`` by name without prefix and labels."""

    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    @classmethod
    def parse(cls, text: str) -> Samples:
        """UnreachableError where it is no exposition."""
        try:
            families = list(text_string_to_metric_families(text))
        except ValueError as error:
            raise UnreachableError(f"/metrics is no exposition of Prometheus ({error}): look at the URL") from error
        return cls(
            {
                (sample.name.removeprefix("scalingnote_"), tuple(sorted(sample.labels.items()))): sample.value
                for family in families
                for sample in family.samples
            }
        )

    def get(self, name: str, **labels: str) -> float | None:
        """One series; None where there is none."""
        return self.values.get((name, tuple(sorted(labels.items()))))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.values.items() if found == name and wanted <= set(has))


def check_service(asker: Asker) -> list[Finding]:
    """Ask everything, probe searches last, and judge.

    Raises:
        UnreachableError: no whole answer within the time, or none of this service.
    """
    reply = asker.get("/info")
    info = _read(Info, reply)
    ready = asker.get("/readyz")
    samples = Samples.parse(asker.get("/metrics").body.decode("utf-8", "replace"))
    history = _read(History, asker.get("/history"))
    probes = probe(asker) if info.serving is not None else Probes((), ())
    return [
        check_ready(Ready(ready.status, ready.json())),
        check_converged(info.desired, info.serving, info.state, *_failure(info)),
        check_skew(skew_seconds(reply), _DATE_SECONDS + reply.seconds),
        *_of_snapshot(info, samples),
        *_of_machine(info, samples),
        *_of_traffic(info, samples, history),
        *_of_probes(info, probes),
    ]


def skew_seconds(reply: Reply) -> float | None:
    """How far the service's clock is ahead of ours, by its Date header, taken to be as far behind as it is on average."""
    try:
        told = parsedate_to_datetime(reply.headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    told = told if told.tzinfo else told.replace(tzinfo=UTC)
    return told.timestamp() + _DATE_SECONDS - (reply.answered_at - reply.seconds / 2)


def probe(asker: Asker) -> Probes:
    """Search for a few texts, one after the other, as any client would; they count in the service's metrics."""
    timings, refused = [], []
    for number in range(_ROUNDS):
        for text in _PROBES:
            reply = asker.post("/search", {"query": f"{text} {number}" if number else text, "k": 10})
            body = reply.json()
            if reply.status == 200 and isinstance(body.get("timings_ms"), dict):
                timings.append({**body["timings_ms"], "round_trip": reply.seconds * 1000})
            else:
                refused.append(f"HTTP {reply.status} {body.get('code', '')}".strip())
    return Probes(tuple(timings), tuple(refused))


def _read(model: type[M], reply: Reply) -> M:
    try:
        return model.model_validate(reply.json())
    except (ValidationError, ManifestError) as error:
        raise UnreachableError(f"{reply.url}: HTTP {reply.status}, not what this service answers: look at the URL") from error


def _failure(info: Info) -> tuple[str, str]:
    return ("", "") if info.last_error is None else (info.last_error.code, info.last_error.reason)


def _of_snapshot(info: Info, samples: Samples) -> list[Finding]:
    findings = [check_remote(info.remote.state, info.remote.code, info.remote.reason)] if info.remote is not None else []
    if info.engine is not None:
        findings.append(check_engine(info.engine.state, info.engine.reason))
    if info.proof is None or info.snapshot is None:
        return findings
    golden, proof = info.snapshot.golden, info.proof
    distance = samples.get("proof_cosine_distance") or proof.max_cosine_distance
    recall = samples.get("proof_recall") or proof.recall
    proven = samples.get("proof_ok") != 0
    bounds = (golden.max_cosine_distance, golden.min_recall)
    live = samples.get("live_recall", bound="high"), samples.get("teacher_overlap", bound="high")
    targets = info.settings.slo_recall, info.settings.slo_overlap
    failure = None if proof.failure is None else (proof.failure.code, proof.failure.reason)
    return [*findings, check_proof(proven, (distance, recall), bounds, failure), *check_live(live, targets)]


def _of_machine(info: Info, samples: Samples) -> list[Finding]:
    plan = ThreadPlan(info.threads.get("cores", 1), info.threads.get("workers", 1), info.threads.get("encoder", 1))
    usage = Usage(
        periods=samples.get("cgroup_cpu_periods_total"),
        throttled_periods=samples.get("cgroup_cpu_throttled_periods_total"),
        throttled_seconds=samples.get("cgroup_cpu_throttled_seconds_total"),
    )
    resident = samples.get("process_resident_memory_bytes")
    return [
        check_threads(plan),
        check_throttling(usage),
        check_headroom(samples.get("memory_available_bytes"), resident),
        check_connections(samples.get("connections"), samples.get("connection_limit"), info.settings.max_connections),
        check_operators(info.settings.admin_tokens_file is not None),
        *([] if info.settings.api_keys_file is None else [check_keys(samples.get("api_keys_file_valid") != 0)]),
    ]


def _of_traffic(info: Info, samples: Samples, history: History) -> list[Finding]:
    answers, faults = (
        sum(samples.total("requests_total", route=route, **code) for route in WORK_ROUTES) for code in ({}, {"code": "500"})
    )
    late = samples.total("over_budget_total")
    shed = samples.total("shed_total", cause="overloaded")
    spans = [sample.span() for sample in history.samples]
    return check_traffic(spans, Traffic(answers, faults, late, shed), info.settings.slo_in_budget)


def _of_probes(info: Info, probes: Probes) -> list[Finding]:
    budget = check_budget(probes, info.settings.default_timeout_ms)
    index = None if info.snapshot is None else info.snapshot.index
    row = None if index is None else next((row for row in index.efforts if row.effort == index.default_effort), None)
    if not probes.timings_ms or row is None:
        return [budget]
    return [budget, *_search_timing([timings.get("search", 0.0) for timings in probes.timings_ms], row)]


def _search_timing(milliseconds: Sequence[float], row: Effort) -> list[Finding]:
    """By the fastest round of each text: a busy neighbour makes the others slower, never faster."""
    searches = [min(milliseconds[number :: len(_PROBES)]) for number in range(min(len(_PROBES), len(milliseconds)))]
    name = f"search at {row.effort}"
    by = "the manifest's effort table"
    return [check_timing(Timing(name, median(searches), max(searches), row.p50_ms, row.p99_ms, by))]
