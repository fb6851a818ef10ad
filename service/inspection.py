"""One inspection by the gate: what loading establishes and what is measured beside the snapshot that serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from service import checks
from service.gate import (
    Check,
    GateOptions,
    GateReport,
    Record,
    golden_checks,
    not_applicable,
    opened_checks,
    sealed_checks,
)
from service.generation import Generation
from service.golden import Proof
from service.recent import RecentQueries
from snapshot.errors import EngineError
from snapshot.layout import Layout
from snapshot.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The snapshot that serves, as far as a candidate is compared with it.

    Attributes:
        manifest: of it.
        layout: where its files are.
        best_ids: the ids, at most ten, that each of these queries finds in it; EngineError where it cannot be asked.
    """

    manifest: Manifest
    layout: Layout
    best_ids: Callable[[Sequence[str]], list[list[str]]]

    @classmethod
    def of(cls, serving: Generation | None, pace: Callable[[], None] = lambda: None) -> Incumbent | None:
        """A generation that is open in this process, and stays open as long as this is used."""
        if serving is None:
            return None
        return cls(serving.manifest, serving.layout, lambda queries: checks.best_ids(serving, queries, pace))


Peer = Callable[[], AbstractContextManager[Incumbent | None]]
"""Pins what serves, if anything does, for a block."""

_MOST_QUERIES = 64
_MEASURED = ("recall", "documents", "required_ids", "overlap", "p99")
"""What a start on a snapshot that has served does not measure again."""


def nothing_serves() -> AbstractContextManager[None]:
    """The peer of a service that has none."""
    return nullcontext()


class Inspection:
    """An Inspector that measures, remembers and, unless it may be forced, refuses."""

    def __init__(
        self,
        record: Record,
        options: GateOptions,
        peer: Peer = nothing_serves,
        recent: Sequence[str] = (),
        pace: Callable[[], None] = lambda: None,
        comparing: bool = True,
        served_before: bool = False,
    ) -> None:
        """Nothing is measured yet.

        Args:
            record: of this attempt.
            options: the limits.
            peer: what serves meanwhile.
            recent: queries of users, the latest first.
            pace: called between two pieces of work; may raise to give up.
            comparing: False where an operator goes back: then being unlike what serves is the point.
            served_before: a service starts again on what has passed already. Its files and golden answers are proven as ever;
                its quality is not measured once more, since nobody is answered meanwhile.
        """
        self.record = record
        self._options = options
        self.peer = peer
        self.recent = recent[:_MOST_QUERIES]
        self.pace = pace
        self.comparing = comparing
        self._served_before = served_before
        self._manifest: Manifest | None = None

    def sealed(self, layout: Layout, manifest: Manifest) -> None:
        """Note what was verified; refuse what would not fit into the memory, before any of it is opened."""
        self._manifest = manifest
        self.record.add(*sealed_checks(manifest, self._signature(layout)))
        with self.peer() as serving:
            self.record.compared_with(None if serving is None else serving.manifest.id)
            beside = [] if serving is None else [(serving.layout, serving.manifest)]
            self.record.add(checks.memory(layout, manifest, beside, self._options))
        self.record.settle()

    def opened(self) -> None:
        """Note that the parts belong together."""
        assert self._manifest is not None  # noqa: S101 - sealed before it is opened
        self.record.add(*opened_checks(self._manifest))

    def asked(self, proof: Proof) -> None:
        """Note the golden answers; whoever loads the snapshot refuses wrong ones by name."""
        assert self._manifest is not None  # noqa: S101 - as above
        self.record.add(*golden_checks(self._manifest, proof))

    def judge(self, generation: Generation) -> None:
        """Measure everything else; GateRefusedError with all that failed."""
        options, record, pace = self._options, self.record, self.pace
        if self._served_before:
            record.add(*(not_applicable(name, None, "a start: it has served before") for name in _MEASURED))
            return
        golden = generation.golden.queries
        known = [*self.recent, *golden][:_MOST_QUERIES]
        vectors, tolerance = generation.golden.vectors, options.recall_tolerance
        record.add(checks.recall(generation.manifest, generation.engine, vectors, tolerance, pace))
        with self.peer() as serving:
            record.add(*self._compared(generation, serving if self.comparing else None))
        record.add(checks.p99(generation, known, options.p99_ms, pace))
        record.settle()

    def report(self, error: Exception | None = None) -> GateReport:
        """All that was found."""
        return self.record.report(error)

    def _signature(self, layout: Layout) -> str:
        if not self._options.trusts:
            return "not looked at: no keys are trusted"
        return "of a trusted key" if layout.signature.is_file() else "none"

    def _compared(self, new: Generation, serving: Incumbent | None) -> list[Check]:
        """With what serves: completeness and overlap."""
        options = self._options
        found = [
            checks.documents(new.manifest, None if serving is None else serving.manifest, options),
            checks.required_ids(new.documents, options.required_ids),
        ]
        if serving is None:
            reason = "no snapshot serves" if self.comparing else "an operator goes back"
            return [*found, not_applicable("overlap", options.min_overlap, reason)]
        if len(self.recent) < checks.ENOUGH_QUERIES:
            reason = f"{len(self.recent)} recent queries, {checks.ENOUGH_QUERIES} are needed"
            return [*found, not_applicable("overlap", options.min_overlap, reason)]
        try:
            theirs = serving.best_ids(self.recent)
        except EngineError as error:  # that it answers nobody is no reason to keep it
            return [*found, not_applicable("overlap", options.min_overlap, f"{serving.manifest.id} cannot be asked ({error})")]
        ours = checks.best_ids(new, self.recent, self.pace)
        return [*found, checks.overlap(ours, theirs, serving.manifest.id, options.min_overlap)]


class Gatekeeper:
    """Begins inspections beside what serves."""

    def __init__(
        self,
        options: GateOptions,
        peer: Callable[[], AbstractContextManager[Generation | None]],
        recent: RecentQueries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._peer = peer
        self._recent = recent
        self._clock = clock

    def begin(
        self,
        snapshot: str,
        forced: bool,
        why: str,
        comparing: bool,
        pace: Callable[[], None],
        served_before: bool = False,
    ) -> Inspection:
        """An inspection of one attempt."""
        record = Record(snapshot, forced, why, self._clock)
        recent = self._recent.latest(_MOST_QUERIES)
        return Inspection(record, self._options, self._pinned(pace), recent, pace, comparing, served_before)

    def _pinned(self, pace: Callable[[], None]) -> Peer:
        @contextmanager
        def peer() -> Iterator[Incumbent | None]:
            with self._peer() as serving:
                yield Incumbent.of(serving, pace)

        return peer
