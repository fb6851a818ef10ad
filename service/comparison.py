"""One query on one open snapshot, approximately and exactly: what was found, what was missed, and each hit's true rank.

Off the hot path: one such search at a time, on a thread that steps back for requests, with a lease on what it searches. Only what
is open anyway can be searched: the serving snapshot and the former one. Why: docs/adr/0033-comparing-open-snapshots.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from service.engines.base import NO_ROW, Hits
from service.errors import EngineFaultError, FieldError, InvalidRequestError, UnknownResourceError
from service.generation import Generation
from service.niceness import yield_to_the_event_loop
from service.stages import Search, check
from service.swap import Generations
from snapshot.documents import FieldValue
from snapshot.errors import EngineError
from snapshot.manifest import Effort

_RANKED = 10
"""Times k: how far down exact search is looked at for the ranks of what was found."""


@dataclass(frozen=True, slots=True)
class ComparedHit:
    """A document.

    Attributes:
        rank: in what was found approximately, from 1; None where it was missed.
        exact_rank: in exact search, from 1; None where it is beyond what was looked at.
    """

    id: str
    score: float
    rank: int | None
    exact_rank: int | None
    fields: dict[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Approximate search against exact search.

    Attributes:
        effort: that was used, a row of the snapshot's effort table.
        exact: the index itself compared with every eligible document, as it does where a filter leaves few.
        expected_recall: recall@10 of this effort, as measured when the snapshot was made.
        recall: share of the exact hits that were found; None where there are none.
        hits: what was found, best first.
        missed: what exact search gives besides.
        timings_ms: tokenize and encode, filter, search, exact, fetch.
    """

    snapshot: str
    effort: int
    exact: bool
    expected_recall: float
    recall: float | None
    hits: list[ComparedHit]
    missed: list[ComparedHit]
    timings_ms: dict[str, float]


class Comparer:
    """Searches open snapshots for people, one search at a time."""

    def __init__(self, generations: Generations) -> None:
        """No thread is started before the first search."""
        self._generations = generations
        self._thread = ThreadPoolExecutor(1, "compare", initializer=yield_to_the_event_loop)

    async def compare(self, snapshot: str, search: Search, effort: int | None) -> Comparison:
        """Search the open snapshot of that id; ``effort`` None for its default.

        Raises:
            UnknownResourceError: it is not open.
            InvalidRequestError: filter, fields or effort name what the snapshot does not have.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._compare, snapshot, search, effort)

    def close(self) -> None:
        """Let go of the thread, once it is done with what it has in hand."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compare(self, snapshot: str, search: Search, effort: int | None) -> Comparison:
        with self._pinned(snapshot) as generation:
            return compare(generation, search, effort)

    @contextmanager
    def _pinned(self, snapshot: str) -> Iterator[Generation]:
        with ExitStack() as pins:
            opened = [pins.enter_context(pin()) for pin in (self._generations.peer, self._generations.lease_former)]
            found = [generation for generation in opened if generation is not None]
            for generation in found:
                if generation.id == snapshot:
                    yield generation
                    return
            names = ", ".join(generation.id for generation in found) or "nothing"
        raise UnknownResourceError(
            f"{snapshot:.80} is not open in this instance, and only what is open can be searched: {names}. What served before "
            "stays open with keep_former; python -m snapshot diff compares any two"
        )


def compare(generation: Generation, search: Search, effort: int | None) -> Comparison:
    """Search a pinned generation both ways; of the search, ``query``, ``k``, ``filter`` and ``fields`` count."""
    watch, row = _Watch(), effort_row(generation, effort)
    parsed, k = check(generation, search), min(search.k, generation.engine.count)
    vector = generation.encoder.encode([search.query])
    watch.lap("encode")
    selection = None if parsed is None else generation.documents.select(parsed)
    watch.lap("filter")
    try:
        found = generation.engine.search(vector, k, row.effort, selection)
        watch.lap("search")
        truth = generation.engine.exact(vector, min(k * _RANKED, generation.engine.count), selection)
        watch.lap("exact")
    except EngineError as error:
        raise EngineFaultError(error.code, str(error)) from error
    hits, missed = _ranked(generation, search, found, truth, k)
    watch.lap("fetch")
    best = min(k, int((truth.rows[0] != NO_ROW).sum()))
    recall = (best - len(missed)) / best if best else None
    return Comparison(generation.id, row.effort, found.exact, row.recall_at_10, recall, hits, missed, watch.timings_ms)


class _Watch:
    """Milliseconds from lap to lap."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.timings_ms[name] = round(1000 * (now - self._last), 4)
        self._last = now


def effort_row(generation: Generation, asked: int | None) -> Effort:
    """A row of the effort table, the default unless asked otherwise; InvalidRequestError where there is none."""
    index = generation.manifest.index
    wanted = index.default_effort if asked is None else asked
    found = next((row for row in index.efforts if row.effort == wanted), None)
    if found is None:
        known = ", ".join(str(row.effort) for row in index.efforts)
        message = f"{wanted} is not in the effort table of {generation.id}; there are: {known}"
        raise InvalidRequestError(FieldError("effort", message))
    return found


def _ranked(
    generation: Generation, search: Search, found: Hits, truth: Hits, k: int
) -> tuple[list[ComparedHit], list[ComparedHit]]:
    """What was found, and what of the k best was not."""
    rows, best = found.rows[0], truth.rows[0]
    exact_ranks = {int(row): rank for rank, row in enumerate(best, 1) if row != NO_ROW}
    scores = {int(row): float(score) for row, score in zip([*best, *rows], [*truth.scores[0], *found.scores[0]], strict=True)}
    hits = [int(row) for row in rows if row != NO_ROW]
    missed = [row for row, rank in exact_ranks.items() if rank <= k and row not in set(hits)]
    every = np.array([*hits, *missed], np.int64)
    ids, fields = generation.documents.ids(every), generation.documents.fields(every, search.fields)
    made = [
        ComparedHit(id_, scores[row], place if place <= len(hits) else None, exact_ranks.get(row), given)
        for place, (row, id_, given) in enumerate(zip([*hits, *missed], ids, fields, strict=True), 1)
    ]
    return made[: len(hits)], made[len(hits) :]
