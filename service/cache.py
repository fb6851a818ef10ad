"""Vectors of queries that were asked before: bounded in bytes, and computed once however many ask at the same time.

Real query streams repeat their head. A vector depends on the query tower and the rendered text alone, so it outlives a
swap that keeps the tower, and is never found by another tower.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.steps import Vectors

Key = tuple[str, str]
"""Digest of the query tower, rendered text."""
Resume = Callable[[], None]

_OVERHEAD_BYTES = 640
"""Of an entry beside its text and its vector: key, tuple, array object, slots of the dictionary. Measured."""


@dataclass(frozen=True, slots=True)
class Known:
    """What encoding a query gave.

    Attributes:
        vector: float32[1, dim].
        tokens: read, special tokens included.
    """

    vector: Vectors
    tokens: int
    truncated: bool

    @property
    def bytes(self) -> int:
        return self.vector.nbytes + _OVERHEAD_BYTES


@dataclass(slots=True)
class _Entry:
    """What is kept; no key of whoever asks again, whose text would be a second copy."""

    known: Known
    asked_again: bool = False


@dataclass(slots=True)
class CacheStats:
    """Counted since the start; ``bytes`` and ``entries`` are what is held now.

    Attributes:
        misses: queries that were encoded, each when it was.
        shared: queries that waited for another one of the same text, and were hits then.
    """

    hits: int = 0
    misses: int = 0
    shared: int = 0
    evictions: int = 0
    bytes: int = 0
    entries: int = 0


class VectorCache:
    """Least recently used goes first. Safe from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty; ``max_bytes`` of 0 keeps nothing and lets nobody wait for another."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._flights: dict[Key, list[Resume]] = {}
        self.stats = CacheStats()

    @property
    def on(self) -> bool:
        return self._max_bytes > 0

    def get(self, key: Key) -> Known | None:
        """What is known of a query; nobody is asked to find out."""
        with self._lock:
            return self._get(key)

    def get_or_lead(self, key: Key) -> tuple[Known | None, bool]:
        """What is known of a query; where nothing is, whether the caller is the one to find out.

        Whoever leads must call ``put`` or ``abandon``. The others ``join``.
        """
        with self._lock:
            known = self._get(key)
            if known is not None:
                return known, False
            if key in self._flights:
                self.stats.shared += 1
                return None, False
            self._flights[key] = []
            return None, True

    def join(self, key: Key, resume: Resume) -> bool:
        """Be called back when the leader has come to an end; False, and no call, where there is no leader any more."""
        with self._lock:
            waiting = self._flights.get(key)
            if waiting is None:
                return False
            waiting.append(resume)
            return True

    def put(self, key: Key, known: Known) -> None:
        """Keep a vector, and call back those who wait for it."""
        with self._lock:
            self._keep(key, known)
            self.stats.misses += key in self._flights
            waiting = self._flights.pop(key, ())
        for resume in waiting:
            resume()

    def abandon(self, key: Key) -> None:
        """Lead no longer: those who wait are called back, find nothing, and one of them leads."""
        with self._lock:
            waiting = self._flights.pop(key, ())
        for resume in waiting:
            resume()

    def head(self, tower: str, most: int) -> list[str]:
        """Rendered texts that were asked for more than once of a tower, at most so many, the latest first."""
        with self._lock:
            again = [text for (found, text), entry in self._entries.items() if found == tower and entry.asked_again]
        return again[: -most - 1 : -1]

    def _get(self, key: Key) -> Known | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        entry.asked_again = True
        self.stats.hits += 1
        return entry.known

    def _keep(self, key: Key, known: Known) -> None:
        size = _size(key, known)
        if size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = _Entry(known)
        self.stats.bytes += size
        while self.stats.bytes > self._max_bytes:
            gone, entry = self._entries.popitem(last=False)
            self.stats.bytes -= _size(gone, entry.known)
            self.stats.evictions += 1
        self.stats.entries = len(self._entries)


def _size(key: Key, known: Known) -> int:
    return sys.getsizeof(key[1]) + known.bytes
