"""The gate: what a snapshot must show before it may serve, as figures beside their limits.

Integrity is never forced: an altered file, a tower of another space or answers that are not the golden ones make every other
figure meaningless. Quality may be forced by an operator who says why. The first failed integrity check ends an inspection;
the others are all measured before the verdict, so that one report says everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from service.golden import Proof
from snapshot.errors import (
    CountMismatchError,
    GateRefusedError,
    GoldenMismatchError,
    IntegrityError,
    KeyFileError,
    ManifestError,
    SignatureError,
    SnapshotError,
    SpaceMismatchError,
    UnsafePathError,
)
from snapshot.layout import Layout
from snapshot.manifest import SCHEMA_VERSION, Manifest

if TYPE_CHECKING:
    from service.generation import Generation

Figure = int | float | str | None
NOT_APPLICABLE = "not applicable: "
"""How the detail of a check begins that had nothing to compare with; it passes."""
QUALITY = ("memory", "recall", "documents", "required_ids", "overlap", "p99", "shadow_overlap", "shadow_p50", "shadow_errors")
INTEGRITY = ("signature", "schema", "hashes", "parts", "space", "counts", "golden_vectors", "golden_hits")


@dataclass(frozen=True, slots=True)
class Check:
    """One figure beside its limit.

    Attributes:
        name: one of ``INTEGRITY`` or ``QUALITY``.
        value: what was found; None where nothing was measured, as ``detail`` says.
        limit: what it was compared with.
        passed: whether it is within the limit, or not applicable.
        forcible: whether an operator may have the snapshot served all the same.
        detail: units, what was compared, and what to do where it failed.
    """

    name: str
    value: Figure
    limit: Figure
    passed: bool
    forcible: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GateReport:
    """What one inspection found.

    Attributes:
        at: when it began, UTC.
        passed: every check passed.
        forced: some did not, and an operator had it served all the same.
        against: id of the snapshot that it was compared with; None where none serves.
        why: the operator's reason to force it.
        code: of the error that refused it; None where it was let through.
        reason: that error's message.
        seconds: that the inspection took, hashing and loading included.
    """

    snapshot: str
    at: datetime
    checks: tuple[Check, ...]
    passed: bool
    forced: bool
    against: str | None = None
    why: str = ""
    code: str | None = None
    reason: str | None = None
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the snapshot may serve."""
        return self.code is None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; what JSON has no number for becomes text."""
        checks = [{**asdict(check), "value": plain(check.value), "limit": plain(check.limit)} for check in self.checks]
        return {**asdict(self), "at": self.at.isoformat(timespec="seconds"), "checks": checks, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class GateOptions:
    """The limits.

    Attributes:
        recall_tolerance: how far recall may fall short of the effort table, beyond three standard errors of the sample.
        min_documents_ratio: least documents over those of the snapshot that serves.
        max_documents_ratio: most of the same.
        required_ids: file of ids, one a line, that must all be there.
        min_overlap: least mean overlap@10 with the snapshot that serves.
        p99_ms: most that a search may take here.
        memory_share: of the available memory, that both snapshots may take together.
        filter_cache_bytes: memory that a snapshot may take for what filters have selected.
        trusts: whether signatures are looked at.
    """

    recall_tolerance: float = 0.05
    min_documents_ratio: float = 0.8
    max_documents_ratio: float = 2.0
    required_ids: Path | None = None
    min_overlap: float = 0.2
    p99_ms: float = 1000.0
    memory_share: float = 0.9
    filter_cache_bytes: int = 0
    trusts: bool = False


class Inspector(Protocol):
    """Hears what loading a snapshot establishes, in this order, and raises to refuse it."""

    def sealed(self, layout: Layout, manifest: Manifest) -> None:
        """The files are those that were sealed; none has been opened yet."""

    def opened(self) -> None:
        """Every part is what the manifest says, of one space, and as many as it says."""

    def asked(self, proof: Proof) -> None:
        """The golden queries were answered so; the answers have not been judged yet."""

    def judge(self, generation: Generation) -> None:
        """The golden answers are right: everything else that can be measured on the ``Generation``, not yet serving."""


class NullInspector:
    """Refuses nothing."""

    def sealed(self, layout: Layout, manifest: Manifest) -> None: ...

    def opened(self) -> None: ...

    def asked(self, proof: Proof) -> None: ...

    def judge(self, generation: Generation) -> None: ...


class Record:
    """The checks of one inspection, and what becomes of them."""

    def __init__(self, snapshot: str, forced: bool, why: str, clock: Callable[[], float]) -> None:
        self._snapshot = snapshot
        self._forced = forced
        self._why = why
        self._clock = clock
        self._begun = clock()
        self._at = datetime.now(UTC)
        self._checks: list[Check] = []
        self._against: str | None = None

    @property
    def force(self) -> tuple[bool, str]:
        """Whether quality may be beyond its limits, and why an operator wants that."""
        return self._forced, self._why

    def compared_with(self, snapshot: str | None) -> None:
        """The snapshot that serves meanwhile."""
        self._against = snapshot

    def add(self, *checks: Check) -> None:
        """Note what was found."""
        self._checks += checks

    def settle(self) -> None:
        """GateRefusedError where what was found so far does not let the snapshot through."""
        failed = [check for check in self._checks if not check.passed]
        if failed and not (self._forced and all(check.forcible for check in failed)):
            raise GateRefusedError(_refusal(self._snapshot, failed), failed[0].name)

    def report(self, error: Exception | None = None) -> GateReport:
        """All of it, once loading has ended, well or with ``error``."""
        checks = tuple(self._checks) if error is None else self._with(error)
        passed = error is None and all(check.passed for check in checks)
        report = GateReport(self._snapshot, self._at, checks, passed, not passed and error is None, self._against)
        seconds = self._clock() - self._begun
        why = self._why if report.forced else ""
        return replace(report, why=why, seconds=seconds, code=code_of(error), reason=reason_of(error))

    def _with(self, error: Exception) -> tuple[Check, ...]:
        """The checks, and the one that an error of loading stands for unless it has been noted."""
        name = _check_of(error)
        if name is None or any(check.name == name for check in self._checks):
            return tuple(self._checks)
        return (*self._checks, Check(name, None, None, passed=False, forcible=False, detail=str(error)))


def code_of(error: Exception | None) -> str | None:
    """The stable code of what went wrong."""
    return None if error is None else error.code if isinstance(error, SnapshotError) else "internal"


def reason_of(error: Exception | None) -> str | None:
    """What went wrong, where, and what to do."""
    if error is None:
        return None
    if isinstance(error, SnapshotError):
        return str(error)
    return f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()  # as a SnapshotError's


def sealed_checks(manifest: Manifest, signature: str) -> list[Check]:
    """What verifying has established; ``signature`` says what there is of one."""
    total = sum(entry.bytes for entry in manifest.files.values())
    return [
        _sound("signature", signature, None),
        _sound("schema", manifest.schema_version, SCHEMA_VERSION),
        _sound("hashes", len(manifest.files), len(manifest.files), f"files, {total} bytes, each with the sealed sha256"),
    ]


def opened_checks(manifest: Manifest) -> list[Check]:
    """What opening has established."""
    space, count = manifest.space.fingerprint[:12], manifest.documents.count
    return [
        _sound("parts", manifest.index.kind, manifest.index.kind, "graph, tokenizer, index and documents are as described"),
        _sound("space", space, space, "of the query tower and of the documents"),
        _sound("counts", count, count, "rows of the index, documents, and documents in the manifest"),
    ]


def golden_checks(manifest: Manifest, proof: Proof) -> list[Check]:
    """What the golden queries have shown; False where NaN."""
    golden = manifest.golden
    vectors = proof.max_cosine_distance <= golden.max_cosine_distance
    hits = proof.recall >= golden.min_recall
    asked = f"of {proof.queries} golden queries"
    return [
        Check(
            "golden_vectors", proof.max_cosine_distance, golden.max_cosine_distance, vectors, False, f"cosine distance {asked}"
        ),
        Check("golden_hits", proof.recall, golden.min_recall, hits, False, f"recall@{proof.k} {asked}"),
    ]


def not_applicable(name: str, limit: Figure, reason: str) -> Check:
    """A check of quality without anything to compare with."""
    return Check(name, None, limit, passed=True, forcible=True, detail=f"{NOT_APPLICABLE}{reason}")


def _sound(name: str, value: Figure, limit: Figure, detail: str = "") -> Check:
    return Check(name, value, limit, passed=True, forcible=False, detail=detail)


_CHECK_OF: Mapping[type[SnapshotError], str] = {
    SignatureError: "signature",
    KeyFileError: "signature",
    UnsafePathError: "hashes",
    ManifestError: "schema",
    CountMismatchError: "counts",
    SpaceMismatchError: "space",
    GoldenMismatchError: "golden_vectors",
}


def _check_of(error: Exception) -> str | None:
    if isinstance(error, IntegrityError):
        return "parts" if error.code == IntegrityError.code else "hashes"
    return next((name for kind, name in _CHECK_OF.items() if isinstance(error, kind)), None)


def _refusal(snapshot: str, failed: Sequence[Check]) -> str:
    shown = "; ".join(map(_shown, failed))
    force = f"python -m snapshot activate {snapshot} --registry DIR --force --why REASON"
    remedy = f"publish a better one, or serve it all the same with: {force}"
    return f"{snapshot}: refused by the gate: {shown}; {remedy}"


def _shown(check: Check) -> str:
    return f"{check.name} {format_figure(check.value)} against {format_figure(check.limit)} ({check.detail})"


def format_figure(value: Figure) -> str:
    """A figure as people read it."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Figure) -> Figure:
    """As JSON can have it: what it has no number for becomes text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
