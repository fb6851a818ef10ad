"""What a worker thread does for a request: tokenize, encode, filter, search, fetch, against one leased generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engines.base import NO_ROW, Hits, Mask, Vectors
from service.errors import FieldError, InvalidRequestError
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


def encode(generation: Generation, queries: Sequence[str], walk: Walk) -> Encoded:
    """Encode at least one query, in chunks."""
    vectors: list[Vectors] = []
    tokens: list[int] = []
    truncated: list[bool] = []
    for start in range(0, len(queries), _ENCODE_CHUNK):
        with walk.stage("tokenize"):
            chunk = generation.encoder.tokenize(queries[start : start + _ENCODE_CHUNK])
        with walk.stage("encode"):
            vectors.append(generation.encoder.embed(chunk))
        tokens += chunk.counts
        truncated += chunk.truncated
    return Encoded(np.concatenate(vectors) if len(vectors) > 1 else vectors[0], tokens, truncated)


def search_one(generation: Generation, search: Search, walk: Walk) -> Result:
    """Answer one search.

    Raises:
        InvalidRequestError: filter or fields name what the snapshot does not have.
        DeadlineExceededError, CallerGoneError: there is no point in going on.
    """
    parsed = check(generation, search)
    encoded = encode(generation, [search.query], walk)
    return _retrieve(generation, search, parsed, encoded, 0, walk, walk.remaining_ms())


def search_many(generation: Generation, searches: Sequence[Search], walk: Walk) -> list[Result]:
    """Answer searches in order. All are checked before any is worked on; error paths begin with the search's index.

    Each plans with an equal share of the time that is left.
    """
    parsed = [_check_item(generation, search, i) for i, search in enumerate(searches)]
    encoded = encode(generation, [search.query for search in searches], walk)
    return [
        _retrieve(generation, search, parsed[i], encoded, i, walk, walk.remaining_ms() / (len(searches) - i))
        for i, search in enumerate(searches)
    ]


def check(generation: Generation, search: Search) -> Filter | None:
    """The parsed filter, if there is one; InvalidRequestError where filter or fields name what the snapshot lacks."""
    documents = generation.documents
    unknown = [(i, name) for i, name in enumerate(search.fields or ()) if name not in documents.names]
    if unknown:
        known = ", ".join(documents.names) or "none in this snapshot"
        raise InvalidRequestError(
            *(FieldError(f"fields.{i}", f"{name!r} is not a field; there are: {known}") for i, name in unknown)
        )
    if search.filter is None:
        return None
    try:
        return parse_filter(search.filter, documents.columns)
    except FilterError as error:
        path = f"filter.{error.path}".rstrip(".")
        raise InvalidRequestError(FieldError(path, str(error).removeprefix(f"{path}: "))) from error


def _check_item(generation: Generation, search: Search, index: int) -> Filter | None:
    try:
        return check(generation, search)
    except InvalidRequestError as error:
        raise error.under(str(index)) from error


def _retrieve(
    generation: Generation,
    search: Search,
    parsed: Filter | None,
    encoded: Encoded,
    row: int,
    walk: Walk,
    share_ms: float,
) -> Result:
    mask = _mask(generation, parsed, walk)
    wants_fields = search.fields is None or len(search.fields) > 0
    plan = plan_search(share_ms, generation.manifest.index, search.k, exact=search.exact, fields=wants_fields)
    if plan is None:
        walk.check("search")
        raise walk.exceeded("search")
    hits = _hits(generation, search, plan, encoded.vectors[row : row + 1], mask, walk)
    with walk.stage("fetch"):
        found = _fetch(generation, search, plan, hits)
    return Result(found, plan.causes, plan.expected_recall, encoded.truncated[row])


def _mask(generation: Generation, parsed: Filter | None, walk: Walk) -> Mask | None:
    if parsed is None:
        return None
    with walk.stage("filter"):
        return generation.documents.mask(parsed)


def _hits(generation: Generation, search: Search, plan: SearchPlan, vector: Vectors, mask: Mask | None, walk: Walk) -> Hits:
    window = min(search.offset + search.k, generation.documents.count)
    with walk.stage("search"):
        if plan.exact:
            return generation.engine.exact(vector, window, mask)
        return generation.engine.search(vector, window, plan.effort, mask)


def _fetch(generation: Generation, search: Search, plan: SearchPlan, hits: Hits) -> list[Hit]:
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
