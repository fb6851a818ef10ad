"""What a worker thread does for a request: tokenize, encode, filter, search, fetch, against one leased generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engines.base import NO_ROW, Hits, Mask, Vectors
from service.errors import MOST_ERRORS, FieldError, InvalidRequestError
from service.generation import Generation
from service.plan import Cause, SearchPlan, plan_search
from service.walk import Walk
from snapshot.documents import FieldValue
from snapshot.errors import FilterError
from snapshot.filters import Filter, parse_filter

_ENCODE_CHUNK = 32
"""Texts per call of the graph: between two calls the deadline is looked at."""


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


@dataclass(frozen=True, slots=True)
class Hit:
    """A document; ``fields`` is None where they were left out for want of time."""

    id: str
    score: float
    fields: dict[str, FieldValue] | None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one search.

    Attributes:
        causes: what was given up; empty where nothing was.
        expected_recall: of the effort used, as measured when the snapshot was made.
        truncated: the query was longer than the tower reads.
    """

    hits: list[Hit]
    causes: tuple[Cause, ...]
    expected_recall: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors float32[n, dim] of n queries, the tokens read of each, and whether it was longer than the tower reads."""

    vectors: Vectors
    tokens: list[int]
    truncated: list[bool]


class Stages:
    """The stages of one request, timed by its walk, against one generation."""

    def __init__(self, generation: Generation, walk: Walk) -> None:
        self._generation = generation
        self._walk = walk

    def encode(self, queries: Sequence[str]) -> Encoded:
        """Encode at least one query, in chunks."""
        encoder = self._generation.encoder
        vectors: list[Vectors] = []
        tokens: list[int] = []
        truncated: list[bool] = []
        for start in range(0, len(queries), _ENCODE_CHUNK):
            with self._walk.stage("tokenize"):
                chunk = encoder.tokenize(queries[start : start + _ENCODE_CHUNK])
            with self._walk.stage("encode"):
                vectors.append(encoder.embed(chunk))
            tokens += chunk.counts
            truncated += chunk.truncated
        return Encoded(np.concatenate(vectors) if len(vectors) > 1 else vectors[0], tokens, truncated)

    def search(self, search: Search) -> Result:
        """Answer one search.

        Raises:
            InvalidRequestError: filter or fields name what the snapshot does not have.
            DeadlineExceededError, CallerGoneError: there is no point in going on.
        """
        parsed = check(self._generation, search)
        encoded = self.encode([search.query])
        hits, plan = self._retrieve(search, parsed, encoded.vectors, left=1)
        return Result(hits, plan.causes, plan.expected_recall, encoded.truncated[0])

    def search_many(self, searches: Sequence[Search]) -> list[Result]:
        """Answer searches in order, each planned with an equal share of the time that is left.

        All are checked before any is worked on; the paths of errors begin with the search's index.
        """
        parsed = [_check_item(self._generation, search, i) for i, search in enumerate(searches)]
        encoded = self.encode([search.query for search in searches])
        results = []
        for i, search in enumerate(searches):
            hits, plan = self._retrieve(search, parsed[i], encoded.vectors[i : i + 1], left=len(searches) - i)
            results.append(Result(hits, plan.causes, plan.expected_recall, encoded.truncated[i]))
        return results

    def _retrieve(self, search: Search, parsed: Filter | None, vector: Vectors, left: int) -> tuple[list[Hit], SearchPlan]:
        mask = self._mask(parsed)
        plan = self._plan(search, left)
        with self._walk.stage("search"):
            hits = _found(self._generation, search, plan, vector, mask)
        with self._walk.stage("fetch"):
            return _fetched(self._generation, search, plan, hits), plan

    def _mask(self, parsed: Filter | None) -> Mask | None:
        if parsed is None:
            return None
        with self._walk.stage("filter"):
            return self._generation.documents.mask(parsed)

    def _plan(self, search: Search, left: int) -> SearchPlan:
        fields = search.fields is None or len(search.fields) > 0
        index, share_ms = self._generation.manifest.index, self._walk.remaining_ms() / left
        plan = plan_search(share_ms, index, search.k, exact=search.exact, fields=fields)
        if plan is None:
            self._walk.check("search")
            raise self._walk.exceeded("search")
        return plan


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


def _check_item(generation: Generation, search: Search, index: int) -> Filter | None:
    try:
        return check(generation, search)
    except InvalidRequestError as error:
        raise error.under(str(index)) from error


def _found(generation: Generation, search: Search, plan: SearchPlan, vector: Vectors, mask: Mask | None) -> Hits:
    window = min(search.offset + search.k, generation.documents.count)
    if plan.exact:
        return generation.engine.exact(vector, window, mask)
    return generation.engine.search(vector, window, plan.effort, mask)


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
    return [Hit(*found) for found in zip(ids, scores.tolist(), fields, strict=True)]
