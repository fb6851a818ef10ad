"""What is done for a request: tokenize, encode, filter, search, fetch, against one leased generation.

Each method is a generator (``service.steps``): whoever runs it may set it aside or encode for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from service.cache import Known, VectorCache
from service.costs import WHOLE, Band, Load, band_of, fetch_key, search_key, size_key
from service.engines.base import NO_ROW, Hits, Vectors
from service.errors import MOST_ERRORS, EngineFaultError, FieldError, InvalidRequestError
from service.generation import Generation
from service.plan import Asked, SearchPlan
from service.queries import Queries
from service.steps import Pause, Steps
from service.walk import Stage, Walk
from snapshot.documents import FieldValue
from snapshot.errors import EngineError, EngineLateError, FilterError
from snapshot.filters import Filter, parse_filter
from snapshot.selection import Selection


@dataclass(frozen=True, slots=True)
class Search:
    """One search, checked as far as that goes without a snapshot.

    Attributes:
        fields: stored fields to return; None for all, empty for none.
    """

    query: str
    k: int = 10
    offset: int = 0
    filter: dict[str, Any] | None = None
    fields: tuple[str, ...] | None = None
    min_score: float | None = None
    exact: bool = False


class Hit(NamedTuple):
    """A document; ``fields`` is None where they were left out for want of time."""

    id: str
    score: float
    fields: dict[str, FieldValue] | None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one search.

    Attributes:
        plan: how it was searched, and what was given up for want of time.
        truncated: the query was longer than the tower reads.
    """

    hits: list[Hit]
    plan: SearchPlan
    truncated: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors float32[n, dim] of n queries, the tokens read of each, and whether it was longer than the tower reads."""

    vectors: Vectors
    tokens: list[int]
    truncated: list[bool]


_WIRE_MS = 0.5
"""Of the caller's budget that no clock of ours sees: until the request's first byte is read, and from the answer's being handed
to the transport until the caller has it. Measured on loopback (docs/log.md); no more is known of what lies between."""

Kinds = dict[Stage, str]
"""What was done in each stage, as the cost model tells it apart."""


_SHARED = ((1, 1.0), (7, 0.9), (math.inf, 0.8))
"""So many searches that share a budget, and the probability with which each is to fit into its share: that all are slow together
is rare, and what one takes more than its share the others, planned after it, have less."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a search is planned for: the present load, and the probability with which it is to be in time."""

    load: Load = Load.QUIET
    probability: float = 0.99


class Stages:
    """The stages of one request, timed by its walk, against one generation."""

    def __init__(self, generation: Generation, walk: Walk, cache: VectorCache, target: Target) -> None:
        self._generation = generation
        self._queries = Queries(generation, walk, cache)
        self._walk = walk
        self._target = target

    def search(self, search: Search) -> Steps[Result]:
        """Answer one search.

        Raises:
            InvalidRequestError: filter or fields name what the snapshot does not have.
            DeadlineExceededError, CallerGoneError: there is no point in going on.
        """
        self._walk.enter("tokenize")
        parsed = check(self._generation, search)
        kinds: Kinds = {"tokenize": WHOLE, "filter": WHOLE}
        if self._generation.costs.is_to_learn():
            self._walk.lesson = partial(self._generation.costs.learn, kinds, load=self._target.load)
        known = yield from self._queries.one(search.query, partial(self._check_time, search, kinds))
        result = self._result(search, parsed, known, 1, kinds)
        kinds["reply"] = WHOLE
        return result

    def search_many(self, searches: Sequence[Search]) -> Steps[list[Result]]:
        """Answer searches in order, each planned with an equal share of the time that is left.

        All are checked before any is worked on; the paths of errors begin with the search's index.
        """
        parsed = []
        for i, search in enumerate(searches):
            parsed.append(self._checked(search, i))
            yield Pause()
        known = yield from self._queries.many([search.query for search in searches])
        results = []
        for i, search in enumerate(searches):
            kinds: Kinds = {"filter": WHOLE}
            lesson = self._lesson_of_item(kinds)
            results.append(self._result(search, parsed[i], known[i], len(searches) - i, kinds))
            self._walk.pass_to("queue")
            if lesson is not None:
                lesson(self._walk.spent_ms)
            yield Pause()
        self._walk.lesson = None
        return results

    def encode(self, queries: Sequence[str]) -> Steps[Encoded]:
        """Encode at least one query."""
        self._walk.enter("tokenize")
        if len(queries) == 1:
            known = [(yield from self._queries.one(queries[0]))]
        else:
            known = yield from self._queries.many(queries)
        vectors = np.concatenate([each.vector for each in known])
        return Encoded(vectors, [each.tokens for each in known], [each.truncated for each in known])

    def _checked(self, search: Search, index: int) -> Filter | None:
        self._walk.enter("tokenize")  # for each: to parse a large filter takes a millisecond
        try:
            return check(self._generation, search)
        except InvalidRequestError as error:
            raise error.under(str(index)) from error

    def _lesson_of_item(self, kinds: Kinds) -> Callable[[Mapping[Stage, float]], None] | None:
        chosen = self._generation.costs.is_to_learn()
        self._walk.lesson = partial(self._learn_item, kinds, dict(self._walk.spent_ms)) if chosen else None
        return self._walk.lesson

    def _learn_item(self, kinds: Kinds, before: Mapping[Stage, float], spent_ms: Mapping[Stage, float]) -> None:
        """What one search of a batch took: what was spent since ``before``."""
        since = {stage: ms - before.get(stage, 0.0) for stage, ms in spent_ms.items()}
        self._generation.costs.learn(kinds, {stage: ms for stage, ms in since.items() if ms > 0}, self._target.load)

    def _check_time(self, search: Search, kinds: Kinds, tokens: int) -> None:
        """DeadlineExceededError where what must still come takes longer than what is left."""
        kinds["encode"] = size_key(tokens)
        if not self._generation.planner.worth(self._walk.remaining_ms(), self._asked(search), tokens):
            self._refuse("encode")

    def _result(self, search: Search, parsed: Filter | None, known: Known, left: int, kinds: Kinds) -> Result:
        selection = self._select(parsed)
        self._walk.enter("search")
        band = None if selection is None else band_of(selection.count, selection.total)
        plan = self._plan(search, left, band)
        kinds |= _kinds(search, plan, band)
        hits = self._found(search, plan, known.vector, selection)
        if hits.exact and not plan.exact:
            plan = plan.made_exact()
        self._walk.enter("fetch")
        return Result(_fetched(self._generation, search, plan, hits), plan, known.truncated)

    def _found(self, search: Search, plan: SearchPlan, vector: Vectors, selection: Selection | None) -> Hits:
        engine, deadline = self._generation.engine, self._walk.deadline
        window = min(search.offset + search.k, self._generation.documents.count)
        try:
            if plan.exact:
                return engine.exact(vector, window, selection, deadline)
            return engine.search(vector, window, plan.effort, selection, deadline)
        except EngineError as error:
            if isinstance(error, EngineLateError) and deadline.passed():
                raise self._walk.exceeded("search") from error
            self._walk.lesson = None  # how fast it failed says nothing of what an answer costs
            raise EngineFaultError(error.code, str(error)) from error

    def _select(self, parsed: Filter | None) -> Selection | None:
        if parsed is None:
            return None
        self._walk.enter("filter")
        return self._generation.documents.select(parsed, partial(self._walk.enter, "filter"))

    def _plan(self, search: Search, left: int, band: Band | None) -> SearchPlan:
        left_ms = (self._walk.remaining_ms() - _WIRE_MS) / left
        planner, asked = self._generation.planner, self._asked(search, left, band)
        if not self._walk.refused:
            plan = planner.plan(left_ms, asked)
            if plan is not None:
                return plan
            self._refuse("search")
        return planner.least(asked)

    def _refuse(self, stage: Stage) -> None:
        """DeadlineExceededError; some that ask elsewhere are told so and done all the same, to see whether it is still true."""
        late = self._walk.exceeded(stage)
        if not (self._walk.elsewhere and self._generation.planner.is_to_learn()):
            raise late
        self._walk.refuse(late)

    def _asked(self, search: Search, left: int = 1, band: Band | None = None) -> Asked:
        fields = search.fields is None or len(search.fields) > 0
        filtered, load = search.filter is not None, self._target.load
        probability = min(self._target.probability, next(share for most, share in _SHARED if left <= most))
        window, elsewhere = search.offset + search.k, self._walk.elsewhere
        return Asked(load, search.k, window, search.exact, fields, filtered, probability, elsewhere, band)


def check(generation: Generation, search: Search) -> Filter | None:
    """The parsed filter, if there is one; InvalidRequestError where filter or fields name what the snapshot lacks."""
    documents = generation.documents
    unknown = [(i, name) for i, name in enumerate(search.fields or ()) if name not in documents.names]
    if unknown:
        known = ", ".join(documents.names) or "none in this snapshot"
        shown = (
            FieldError(f"fields.{i}", f"{name!r:.60} is not a field; there are: {known}") for i, name in unknown[:MOST_ERRORS]
        )
        raise InvalidRequestError(*shown, more=max(0, len(unknown) - MOST_ERRORS))
    try:
        return None if search.filter is None else parse_filter(search.filter, documents.columns)
    except FilterError as error:
        path = f"filter.{error.path}".rstrip(".")
        raise InvalidRequestError(FieldError(path, str(error).removeprefix(f"{path}: "))) from error


def _kinds(search: Search, plan: SearchPlan, band: Band | None) -> Kinds:
    """What the cost model is to learn from a search that goes by this plan, also if it ends too late."""
    fetched = fetch_key(search.k, plan.with_fields)
    effort = None if plan.exact else plan.effort
    sought = search_key(effort, band, search.offset + search.k)
    return {"search": sought, "fetch": fetched, "render": fetched}


def _fetched(generation: Generation, search: Search, plan: SearchPlan, hits: Hits) -> list[Hit]:
    rows, scores = hits.rows[0, search.offset :], hits.scores[0, search.offset :]
    kept = rows != NO_ROW
    if search.min_score is not None:
        kept &= scores >= search.min_score
    rows, scores = rows[kept], scores[kept]
    documents = generation.documents
    ids = documents.ids(rows)
    if plan.with_fields:
        fields: Sequence[dict[str, FieldValue] | None] = documents.fields(rows, search.fields)
    else:
        fields = [{} if search.fields == () else None] * len(ids)
    return list(map(Hit, ids, scores.tolist(), fields))
