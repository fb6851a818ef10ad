"""The same queries, asked of a running service: quality as a caller meets it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from offline.bootstrap import Interval, mean_interval
from offline.data.prepared import Prepared
from offline.errors import DataError, ServiceError
from offline.judged import Judged, load_judged
from offline.metrics import DEPTH, METRICS, Rows, merge_depths, score
from offline.progress import track
from offline.recipe import Recipe
from snapshot.files import read_secret

_PAGE = 10
_TIMEOUT_MS = 3_600_000.0
"""The service caps it by its own longest budget: quality is measured, not haste."""
_CLIENT_TIMEOUT_SECONDS = 30.0
_EXCERPT = 300
_NO_KEY = (401, 403)
_NO_USER = {"X-Synthetic-Request": "1"}
"""Judged queries are no live ones: they would be kept for the next student to learn from, and be judged by again."""


@dataclass(frozen=True, slots=True)
class ServedQuality:
    """What a running service achieves.

    Attributes:
        metrics: mean and interval of each metric.
        with_own: queries whose id a document has too, which is left out of their answers.
        degraded: answers in which the service gave something up for want of time.
        p50_ms: median wall time of a search for ten hits, one at a time, connection kept open.
        p99_ms: 99th percentile of the same.
    """

    url: str
    snapshot: str
    split: str
    queries: int
    metrics: Mapping[str, Interval]
    with_own: int
    degraded: int
    p50_ms: float
    p99_ms: float

    def describe(self) -> str:
        """One line for the command line."""
        figures = ", ".join(f"{name} {one.estimate:.3f} [{one.low:.3f}, {one.high:.3f}]" for name, one in self.metrics.items())
        own = f"; the document with the query's own id is left out for {self.with_own} queries" if self.with_own else ""
        return (
            f"as served over HTTP by {self.url} (snapshot {self.snapshot}, {self.queries} {self.split} queries): {figures}; "
            f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms; {self.degraded} answers degraded{own}"
        )


def read_key(path: Path | None) -> str | None:
    """The API key in a file, alone on its line; None without a file. ServiceError where there is none."""
    if path is None:
        return None
    try:
        return read_secret(path)
    except (OSError, ValueError) as error:
        raise ServiceError(f"{path}: holds no API key ({error}); write one into it, alone on its line") from error


def evaluate_service(
    url: str, prepared: Prepared, recipe: Recipe, key: str | None = None, transport: httpx.BaseTransport | None = None
) -> ServedQuality:
    """Ask ``url`` each judged query of the recipe's split, one after the other, and score the ids that come back.

    Each query is asked twice: for ten hits, as callers do, and for a hundred, which recall@100 needs (FAISS searches
    harder for more hits, so the ten best of a hundred would flatter). Where a document has the query's id, for one more, and
    that document is left out.

    Args:
        url: where the service answers, such as ``http://127.0.0.1:8000``.
        prepared: the output of ``prepare`` for the data that the service's snapshot was made from.
        recipe: for the split, the cut of relevance and the bootstrap.
        key: for a service that wants an API key.
        transport: in place of the network.

    Raises:
        DataError: there are no judged queries.
        ServiceError: no answer, an error, another snapshot in mid-run, or ids that are not in the data.
    """
    judged = load_judged(prepared, recipe)
    if judged is None:
        raise DataError("there are no judged queries (qrels/test.tsv or qrels/dev.tsv) to ask the service")
    headers = _NO_USER if key is None else {**_NO_USER, "X-API-Key": key}
    row_of = {name: row for row, name in enumerate(prepared.documents.column("id").to_pylist())}
    with httpx.Client(base_url=url, headers=headers, timeout=_CLIENT_TIMEOUT_SECONDS, transport=transport) as client:
        pages, deeps = [], []
        for name, text in track(list(zip(judged.ids, judged.texts, strict=True)), "ask the service"):
            own = name if name in judged.own else None
            pages.append(_search(client, text, _PAGE, own))
            deeps.append(_search(client, text, DEPTH, own))
    rows = merge_depths(_rows(pages, _PAGE, row_of, url), _rows(deeps, DEPTH, row_of, url))
    return _quality(url, recipe, judged, rows, pages, deeps)


@dataclass(frozen=True, slots=True)
class _Answer:
    ids: list[str]
    snapshot: str
    degraded: bool
    milliseconds: float


def _search(client: httpx.Client, query: str, k: int, own: str | None) -> _Answer:
    """``k`` hits without the document ``own``."""
    body = {"query": query, "k": k if own is None else k + 1, "exact": False, "fields": [], "timeout_ms": _TIMEOUT_MS}
    began = time.perf_counter()
    try:
        response = client.post("/search", json=body)
    except httpx.HTTPError as error:
        raise ServiceError(f"{client.base_url}: no answer ({error}); is the service running there?") from error
    milliseconds = 1000 * (time.perf_counter() - began)
    if not response.is_success:
        remedy = "; name a file that holds an API key which may search with --key-file" if response.status_code in _NO_KEY else ""
        told = f"status {response.status_code} to the query {query!r}: {response.text[:_EXCERPT]}"
        raise ServiceError(f"{response.url}: {told}{remedy}")
    answer = _parse(response, milliseconds)
    return answer if own is None else replace(answer, ids=[name for name in answer.ids if name != own][:k])


def _parse(response: httpx.Response, milliseconds: float) -> _Answer:
    try:
        found: dict[str, Any] = response.json()
        ids = [str(hit["id"]) for hit in found["hits"]]
        return _Answer(ids, str(found["snapshot"]), found["degraded"] is not None, milliseconds)
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceError(f"{response.url}: not an answer to /search ({error!r}); is another service running there?") from error


def _rows(answers: Sequence[_Answer], width: int, row_of: Mapping[str, int], url: str) -> Rows:
    """int64[q, width] of the ids' rows, -1 where fewer came back."""
    rows = np.full((len(answers), width), -1, np.int64)
    for place, answer in enumerate(answers):
        unknown = [name for name in answer.ids if name not in row_of]
        if unknown:
            raise ServiceError(
                f"{url}: the snapshot {answer.snapshot} returned the document {unknown[0]!r}, which is not in the data; "
                "ask a service whose snapshot was made from this data"
            )
        rows[place, : len(answer.ids)] = [row_of[name] for name in answer.ids]
    return rows


def _quality(
    url: str, recipe: Recipe, judged: Judged, rows: Rows, pages: Sequence[_Answer], deeps: Sequence[_Answer]
) -> ServedQuality:
    answers = [*pages, *deeps]
    snapshots = sorted({answer.snapshot for answer in answers})
    if len(snapshots) > 1:
        raise ServiceError(f"{url}: the snapshot was swapped meanwhile ({', '.join(snapshots)}); run it again")
    p50, p99 = np.percentile([page.milliseconds for page in pages], [50, 99])
    config = recipe.evaluate
    scores = score(judged, rows)
    return ServedQuality(
        url=url,
        snapshot=snapshots[0],
        split=judged.split,
        queries=len(judged),
        metrics={name: mean_interval(scores[name], config.bootstrap, config.seed) for name in METRICS},
        with_own=judged.with_own,
        degraded=sum(answer.degraded for answer in answers),
        p50_ms=float(p50),
        p99_ms=float(p99),
    )
