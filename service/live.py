"""What live queries show of what serves: how much of exact search they find, and how far the student is from its teacher.

A share of the searches is put aside as they are answered, and looked at again on one thread of low priority, which keeps to its
share of one core. What comes faster than that is dropped, the oldest first. A swap begins anew.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import structlog

from service.agreement import Agreement, live_recall, teacher_agreement
from service.encoder import Encoder, Tokenizers
from service.generation import Generation
from service.niceness import Pace, yield_to_the_event_loop
from service.recent import digest
from service.spare import Spare
from service.stages import Result, Search
from service.windows import Estimate, Window, normal, wilson
from service.worst import Disagreement, WorstQueries, write_worst
from snapshot.errors import SnapshotError

Work = Literal["recall", "teacher"]
Outcome = Literal["compared", "partial", "exact", "empty", "dropped", "swapped", "failed"]
WORKS: tuple[Work, ...] = ("recall", "teacher")
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_WAITING = 64
"""Searches that wait to be looked at again."""
_WAIT_SECONDS = 0.5
_WRITE_SECONDS = 60.0
"""Between two writes of the file of worst queries."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How much is looked at again.

    Attributes:
        recall_share: of searches that are searched again exactly.
        teacher_share: of searches that the teacher encodes too, where there is one.
        window: latest values that means are taken of.
        worst_queries: of the student's that are kept.
        worst_file: where these are written.
    """

    recall_share: float = 0.01
    teacher_share: float = 0.01
    window: int = 1000
    worst_queries: int = 0
    worst_file: Path | None = None


class LiveObserver(Protocol):
    """Hears of what was looked at again; must not raise."""

    def sampled(self, work: Work, outcome: Outcome) -> None: ...

    def agreed(self, cosine: float) -> None: ...

    def worked(self, cpu_seconds: float) -> None: ...


class NullLiveObserver:
    """Hears and does nothing."""

    def sampled(self, work: Work, outcome: Outcome) -> None: ...

    def agreed(self, cosine: float) -> None: ...

    def worked(self, cpu_seconds: float) -> None: ...


class Serving(Protocol):
    """``service.swap.Generations``, as far as it is needed here."""

    @property
    def serving(self) -> str | None:
        """Id of the snapshot that answers now."""

    def peer(self) -> AbstractContextManager[Generation | None]:
        """Pin it for a block; None where nothing answers."""


class _Sample(NamedTuple):
    """A search that was answered.

    Attributes:
        scores: of its hits, best first.
        snapshot: that answered it.
    """

    search: Search
    scores: tuple[float, ...]
    snapshot: str
    works: tuple[Work, ...]


class Figures(NamedTuple):
    """Of one snapshot, as far as there are any."""

    recall: Estimate | None = None
    cosine: Estimate | None = None
    overlap: Estimate | None = None
    worst: int = 0


class _Record:
    """What was found of one snapshot."""

    def __init__(self, snapshot: str, options: LiveOptions) -> None:
        self.snapshot = snapshot
        self.recall = Window(options.window, wilson)
        self.cosine = Window(options.window, normal)
        self.overlap = Window(options.window, wilson)
        self.worst = WorstQueries(options.worst_queries)
        self.teacher: Encoder | None = None
        self.broken = False  # the teacher cannot be opened: tried once


class Live:
    """``hear`` is called by the threads that answer; everything else of it happens on its own."""

    def __init__(
        self,
        options: LiveOptions,
        generations: Serving,
        observer: LiveObserver | None = None,
        spare: Spare | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Nothing runs before ``start``.

        Args:
            options: how much.
            generations: what serves.
            observer: hears of each search that was put aside.
            spare: how much of the processor this may take.
            clock: monotonic seconds.
            cpu: seconds of processor time of the calling thread.
            sleep: for so many seconds, or until ``stop``.
            chance: from 0 to 1, for each search.
        """
        self._options = options
        self._generations = generations
        self._looking_at: str | None = None
        self._observer = observer or NullLiveObserver()
        self._clock = clock
        self._cpu = cpu
        self._chance = chance
        self._most = max(options.recall_share, options.teacher_share)
        self._waiting: deque[_Sample] = deque()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._pace = Pace(self._go_on, clock, spare, cpu, sleep or self._stopping.wait)
        self._record: _Record | None = None
        self._tokenizers = Tokenizers()
        self._write_at = clock()
        self._unwritten = False
        self._thread = threading.Thread(target=self._run, name="live")

    @property
    def on(self) -> bool:
        """Whether anything is looked at again at all."""
        return self._most > 0

    def hear(self, search: Search, result: Result, generation: Generation) -> None:
        """On the thread that answers the search: only chosen and put aside here."""
        chance = self._chance()
        if chance >= self._most:
            return
        options, has_teacher = self._options, generation.manifest.teacher_tower is not None
        works: list[Work] = ["recall"] if chance < options.recall_share else []
        if has_teacher and chance < options.teacher_share:
            works.append("teacher")
        if works:
            scores = tuple([hit.score for hit in result.hits])
            self._put_aside(_Sample(search, scores, generation.id, tuple(works)))

    def figures(self, snapshot: str | None) -> Figures:
        """What was found of a snapshot; nothing where it is not the one that is looked at."""
        record = self._record
        if record is None or record.snapshot != snapshot:
            return Figures()
        return Figures(record.recall.estimate(), record.cosine.estimate(), record.overlap.estimate(), len(record.worst))

    def worst_jsonl(self) -> str:
        """The queries that student and teacher agree least on, as JSON lines, the worst first."""
        record = self._record
        return "" if record is None else record.worst.jsonl(record.snapshot)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Look at nothing any more; what is kept and not yet written is written."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def step(self) -> bool:
        """Look at one search that waits; False where none does."""
        if not self._waiting:
            return False
        sample = self._waiting.popleft()
        begun = self._cpu()
        with self._generations.peer() as generation:
            if generation is None or generation.id != sample.snapshot:
                self._count(sample, "swapped")
            else:
                self._look(sample, generation)
        self._looking_at = None
        self._observer.worked(self._cpu() - begun)
        return True

    def write(self) -> None:
        """Write the worst queries beside those of the file, where one is wanted and there are new ones, later if not now."""
        path = self._options.worst_file
        if path is None or not self._unwritten:
            return
        self._write_at = self._clock() + _WRITE_SECONDS
        try:
            write_worst(path, self.worst_jsonl(), self._options.worst_queries)
            self._unwritten = False
        except OSError as error:
            _log.warning("worst_queries_not_written", path=str(path), error=error.strerror)

    def _put_aside(self, sample: _Sample) -> None:
        self._waiting.append(sample)
        if len(self._waiting) > _WAITING:
            self._count(self._waiting.popleft(), "dropped")
        self._woken.set()

    def _run(self) -> None:
        yield_to_the_event_loop()
        try:
            while True:
                self._woken.clear()
                if self._stopping.is_set():  # after the line above: whoever stops wakes afterwards
                    break
                while self.step():
                    self._write_now_and_then()  # here too: searches may wait without end
                    self._pace()
                self._write_now_and_then()
                self._woken.wait(_WAIT_SECONDS if self._unwritten else None)
        except _StoppedError:
            pass
        self.write()

    def _write_now_and_then(self) -> None:
        if self._clock() >= self._write_at:
            self.write()

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError
        if self._looking_at is not None and self._generations.serving != self._looking_at:
            raise _SwappedError  # what is pinned here must not outlive its time

    def _look(self, sample: _Sample, generation: Generation) -> None:
        record = self._record
        if record is None or record.snapshot != generation.id:
            self._begin_anew(generation.id)
        self._looking_at = generation.id
        ways: dict[Work, Callable[[_Sample, Generation], Outcome]] = {"recall": self._recall, "teacher": self._agree}
        for work in sample.works:
            try:
                outcome = ways[work](sample, generation)
            except _StoppedError:
                raise
            except _SwappedError:
                outcome = "swapped"
            except Exception as error:  # noqa: BLE001 - counted: whatever a user's query does to it, nobody waits for this
                outcome = "failed"
                query, name = digest(sample.search.query), type(error).__name__
                _log.warning("live_look_failed", work=work, snapshot=generation.id, query_sha256=query, error=name)
            self._observer.sampled(work, outcome)

    def _begin_anew(self, snapshot: str) -> None:
        self.write()  # what was found of the one before is forgotten below
        if self._record is not None and self._record.teacher is not None:
            self._record.teacher.close()
        self._record = _Record(snapshot, self._options)

    def _recall(self, sample: _Sample, generation: Generation) -> Outcome:
        assert self._record is not None  # noqa: S101 - begun before
        search = sample.search
        if search.offset or search.min_score is not None:
            return "partial"
        if search.exact:
            return "exact"
        found = live_recall(generation, search, sample.scores, self._pace)
        if found is None:
            return "empty"
        self._record.recall.add(found)
        return "compared"

    def _agree(self, sample: _Sample, generation: Generation) -> Outcome:
        record, query = self._record, sample.search.query
        assert record is not None  # noqa: S101 - begun before
        teacher = self._teacher(record, generation)
        if teacher is None:
            return "failed"
        found: Agreement = teacher_agreement(generation, teacher, query, self._pace)
        record.cosine.add(found.cosine)
        record.overlap.add(found.overlap)
        self._observer.agreed(found.cosine)
        self._unwritten |= record.worst.offer(Disagreement(found.cosine, query, found.overlap))
        return "compared"

    def _teacher(self, record: _Record, generation: Generation) -> Encoder | None:
        """Opened by the first query that it is asked, since it may be large."""
        manifest = generation.manifest
        if record.teacher is None and not record.broken and manifest.teacher_tower is not None:
            try:
                layout = generation.layout.teacher
                record.teacher = Encoder.open(layout, manifest.teacher_tower, manifest.space, 1, self._tokenizers)
            except (SnapshotError, OSError) as error:
                record.broken = True
                _log.error("teacher_not_opened", snapshot=generation.id, reason=str(error))
            self._pace()
        return record.teacher

    def _count(self, sample: _Sample, outcome: Outcome) -> None:
        for work in sample.works:
            self._observer.sampled(work, outcome)


class _StoppedError(Exception):
    """It is to end in the middle of a piece of work."""


class _SwappedError(Exception):
    """Another snapshot serves by now."""
