"""Milvus: the vectors of a snapshot in a collection of its own, which nobody writes to any more.

Searches ask for Bounded consistency. Nothing is written after the rows were counted, so a replica that lags behind by seconds
holds what every other holds; Strong would wait for a tick of the server's clock in each search (200 ms against 2). Counting and
sampling, when a collection is opened, ask for Strong: they are to see what somebody has done to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.deadline import Deadline
from service.engines.base import NO_ROW, NO_SCORE, Hits, Rows, Vectors
from service.engines.breaker import Breaker
from service.engines.milvus_filter import Translator
from service.engines.milvus_wire import ExpressionRefusedError, Wire
from service.engines.remote import MilvusServer
from service.errors import FieldError, InvalidRequestError
from snapshot.collection import VECTOR, fingerprint, sampled_fields, sampled_rows
from snapshot.errors import (
    CollectionAlteredError,
    CollectionMissingError,
    EngineError,
    EngineLateError,
    EngineUnavailableError,
)
from snapshot.manifest import Column, MilvusIndex
from snapshot.selection import Selection

MOST_HITS = 16_384
"""Of one query: what Milvus allows."""
_OPEN_SECONDS = 60.0
"""For loading a collection, and looking whether it is the one."""
_FIRST_SECONDS = 5.0
"""For the first word of a server: where none listens that speaks its protocol, nothing comes at all."""
_PROBE_SECONDS = 5.0
"""A call that a server took with it when it died is not waited for; loading goes on there, and the next probe sees it."""
_UNHURRIED_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_FAIR_SECONDS = 0.1
"""Who gives less time than this may get no answer from a server that is well; that many get none says more."""
_LEAST_SECONDS = 0.01
"""And with less than this nobody gets one, which says nothing."""
_AGAIN = "run its recipe again, which writes it anew, or activate another snapshot"

_Answer = tuple[list[int], Vectors, Rows]
"""How many hits each query has, their scores and their rows."""


class MilvusEngine:
    """An Engine over one collection. Every search may also raise EngineError."""

    def __init__(self, wire: Wire, index: MilvusIndex, columns: Sequence[Column], dim: int, server: MilvusServer) -> None:
        """Nothing is asked yet; see ``open``."""
        self._wire = wire
        self._index = index
        self._columns = columns
        self._server = server
        self._translator = Translator(self._columns)
        self.dim = dim
        self.count = index.rows
        self.breaker = Breaker(self._name, lambda: self._look(_PROBE_SECONDS), probe_seconds=server.probe_seconds)

    @classmethod
    def open(cls, index: MilvusIndex, columns: Sequence[Column], dim: int, server: MilvusServer) -> MilvusEngine:
        """Load the collection, and look whether it is the one that the manifest describes.

        Raises:
            EngineError: the server does not answer or refuses us, or the collection is missing, or another one.
        """
        engine = cls(Wire(server), index, columns, dim, server)
        try:
            engine._look(_OPEN_SECONDS)
        except BaseException:
            engine.close()
            raise
        return engine

    def search(
        self, queries: Vectors, k: int, effort: int, selection: Selection | None = None, deadline: Deadline | None = None
    ) -> Hits:
        """Approximate search; exact for the queries that it left short of hits, and where that is as cheap."""
        probes = min(max(effort, 1), self._index.nlist)
        if selection is not None and selection.count < self.count:
            return self._filtered(queries, k, probes, selection, deadline)
        hits = self._ask(_Asked(queries, k, probes, None, deadline))
        short = np.flatnonzero(_found(hits) < min(k, self.count))
        if len(short) and probes < self._index.nlist:
            exact = self.exact(queries[short], k, None, deadline)
            hits.scores[short], hits.rows[short] = exact.scores, exact.rows
        return hits

    def exact(self, queries: Vectors, k: int, selection: Selection | None = None, deadline: Deadline | None = None) -> Hits:
        """Look into every list: the vectors in them are whole."""
        whole = selection is None or selection.count == self.count
        asked = _Asked(queries, k, self._index.nlist, None if whole else selection, deadline, exact=True)
        return replace(self._ask(asked), exact=True)

    def check(self) -> None:
        """Look at schema, number of rows and the sample again: an approximate search does not miss rows that were deleted.

        Raises:
            EngineError: not so; the breaker is open then, at once where the collection is another one.
        """
        self.breaker.check()
        try:
            self._look(_PROBE_SECONDS)
        except EngineError as error:
            self.breaker.failed(error, at_once=isinstance(error, CollectionAlteredError | CollectionMissingError))
            raise

    def close(self) -> None:
        """End the connection. The collection stays loaded: others may search it."""
        self.breaker.stop()
        self._wire.close()

    def _filtered(self, queries: Vectors, k: int, probes: int, selection: Selection, deadline: Deadline | None) -> Hits:
        """Deeper until what was found does not get better.

        A filter moves the nearest eligible rows away from the query, by 1 / share if it is independent of the query, and by
        any distance if not. Rows that are not selected cost next to nothing, so this looks at as many as without a filter.
        """
        share, nlist = max(selection.count, 1) / self.count, self._index.nlist
        probes = math.ceil(2 * probes / share)
        if 2 * probes >= nlist:
            return self.exact(queries, k, selection, deadline)
        hits = self._ask(_Asked(queries, k, probes, selection, deadline))
        while 4 * probes < nlist:
            probes *= 4
            deeper = self._ask(_Asked(queries, k, probes, selection, deadline))
            if np.array_equal(hits.rows, deeper.rows) and (_found(deeper) >= min(k, selection.count)).all():
                return deeper
            hits = deeper
        return self.exact(queries, k, selection, deadline)

    def _ask(self, asked: _Asked) -> Hits:
        """One call, with the blanks up to k as the contract has them."""
        hits, wanted = _blanks(len(asked.queries), asked.k), min(asked.k, self._eligible(asked.selection))
        if not wanted or not len(asked.queries):
            return hits
        if wanted > MOST_HITS:
            raise InvalidRequestError(FieldError("k", f"{wanted} with the offset; this snapshot's engine gives {MOST_HITS}"))
        expression = "" if asked.selection is None else self._translator.expression(asked.selection)
        self.breaker.check()
        counts, scores, rows = self._guarded(asked, wanted, expression)
        ends = np.cumsum(counts)
        for number, (begin, end) in enumerate(zip(ends - counts, ends, strict=True)):
            hits.scores[number, : end - begin], hits.rows[number, : end - begin] = scores[begin:end], rows[begin:end]
        return hits

    def _eligible(self, selection: Selection | None) -> int:
        return self.count if selection is None else selection.count

    def _guarded(self, asked: _Asked, wanted: int, expression: str) -> _Answer:
        """Ask, once more where the connection broke and time is left, and tell the breaker how that went."""
        seconds = _seconds(asked.deadline, self._server)
        end = time.monotonic() + seconds

        def call() -> _Answer:
            left, name = end - time.monotonic(), self._index.collection
            return self._wire.search(name, asked.queries, wanted, asked.probes, expression, left)

        try:
            answer = _twice(call)
            self._check(asked, wanted, answer)
        except ExpressionRefusedError as error:
            if asked.selection is None or not self._wire.loaded(self._index.collection, end - time.monotonic()):
                self.breaker.failed(error)
                raise
            raise InvalidRequestError(
                FieldError("filter", f"the engine of this snapshot does not take it: {error.said}")
            ) from error
        except EngineError as error:
            self._failed(error, asked, seconds)
            raise
        self.breaker.succeeded()
        return answer

    def _failed(self, error: EngineError, asked: _Asked, seconds: float) -> None:
        """Tell the breaker, unless it is the asking that was to blame: exact search may take any time."""
        if not isinstance(error, EngineLateError):
            self.breaker.failed(error, at_once=isinstance(error, CollectionAlteredError))
        elif not asked.exact and seconds >= _FAIR_SECONDS:
            self.breaker.failed(error)
        elif not asked.exact and seconds >= _LEAST_SECONDS:
            self.breaker.late(error)

    def _check(self, asked: _Asked, wanted: int, answer: _Answer) -> None:
        """CollectionAlteredError for an answer that this collection cannot give."""
        counts, scores, rows = answer
        fault = None
        if len(counts) != len(asked.queries) or not sum(counts) == len(rows) == len(scores) or max(counts) > wanted:
            fault = f"{counts} hits for {len(asked.queries)} queries, {wanted} each were asked for"
        elif len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            fault = f"rows {rows.min()} to {rows.max()} of {self.count}"
        elif asked.selection is not None and not _all_selected(asked.selection, rows):
            fault = "rows that the filter does not select"
        elif asked.probes >= self._index.nlist and min(counts) < wanted:
            fault = f"{min(counts)} of the {wanted} hits that there must be"
        if fault is not None:
            raise CollectionAlteredError(f"{self._name}: it answers with {fault}; {_AGAIN}")

    @property
    def _name(self) -> str:
        return f"{self._index.collection} at {self._wire.uri}"

    def _look(self, seconds: float) -> None:
        """Whether the collection is there, loaded, and the one that was written: schema, number of rows, a sample of them.

        Raises:
            EngineError: not so.
        """
        end, name = time.monotonic() + seconds, self._index.collection

        def left() -> float:
            return end - time.monotonic()

        found = self._wire.fields(name, min(_FIRST_SECONDS, left()))
        if _plain(found) != _plain(self._index.fields):
            other = sorted(found.items() ^ self._index.fields.items())
            raise CollectionAlteredError(f"{self._name}: its fields are not those of the manifest: {other}; {_AGAIN}")
        self._load(left)
        count = self._wire.count(name, left())
        if count != self.count:
            raise CollectionAlteredError(
                f"{self._name}: {count} rows, the manifest says {self.count}: half written, or written to since; {_AGAIN}"
            )
        if self._fingerprint(left) != self._index.fingerprint:
            raise CollectionAlteredError(f"{self._name}: its rows are those of another snapshot, or were changed since; {_AGAIN}")

    def _load(self, left: Callable[[], float]) -> None:
        name = self._index.collection
        if self._wire.loaded(name, left()):
            return
        self._wire.load(name, left())
        while not self._wire.loaded(name, left()):
            time.sleep(_LOOK_SECONDS)

    def _fingerprint(self, left: Callable[[], float]) -> str:
        """Of the sample, as it is now; empty where rows of it are missing."""
        rows, names = sampled_rows(self.count), sampled_fields(self._columns)
        found = self._wire.rows(self._index.collection, f"row in {rows.tolist()}", [*names, VECTOR], left())
        if any(len(found.get(name, ())) != len(rows) for name in names) or len(found.get(VECTOR, ())) != len(rows) * self.dim:
            return ""
        order = np.argsort(np.array(found[names[0]]))
        vectors = np.array(found[VECTOR], np.float32).reshape(len(rows), self.dim)
        return fingerprint(self.count, [[found[name][at] for name in names] for at in order], vectors[order])


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call.

    Attributes:
        exact: it was asked for by name, or nothing less will do.
    """

    queries: Vectors
    k: int
    probes: int
    selection: Selection | None
    deadline: Deadline | None
    exact: bool = False


def _seconds(deadline: Deadline | None, server: MilvusServer) -> float:
    """How long is waited: not beyond the deadline. Who has none, such as the gate, is in no hurry."""
    return _UNHURRIED_SECONDS if deadline is None else min(server.timeout_ms, deadline.remaining_ms()) / 1000


def _twice(call: Callable[[], _Answer]) -> _Answer:
    try:
        return call()
    except EngineLateError:
        raise
    except EngineUnavailableError:
        return call()


def _all_selected(selection: Selection, rows: Rows) -> bool:
    held = selection.held
    if held.dtype == np.uint8:
        return bool((held[rows >> 3] >> (rows & 7) & 1).all())
    return bool(np.isin(rows, held).all())


def _plain(fields: Mapping[str, str]) -> dict[str, str]:
    """Servers and their libraries spell types differently: VARCHAR, VarChar, FLOAT_VECTOR."""
    return {name: kind.upper().replace("_", "") for name, kind in fields.items()}


def _found(hits: Hits) -> Rows:
    """int64[n], how many hits each query has."""
    return np.asarray((hits.rows != NO_ROW).sum(axis=1))


def _blanks(queries: int, k: int) -> Hits:
    return Hits(np.full((queries, k), NO_SCORE, dtype=np.float32), np.full((queries, k), NO_ROW, dtype=np.int64))
