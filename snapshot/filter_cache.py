"""Selections by filter, the most recently used within a bound of bytes. Safe to use from several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from snapshot.filters import Filter
from snapshot.selection import Selection

_ENTRY_BYTES = 1024
"""Charged for an entry beside its rows: about what the parsed filter and the objects around it take."""
_KEY_BYTES_PER_CHARACTER = 4
"""Charged for the values of a long list: an integer of ten digits takes 32 bytes and its place in the tuple 8."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Since the cache was made; ``bytes`` and ``entries`` are what it holds now."""

    hits: int
    misses: int
    entries: int
    bytes: int


class FilterCache:
    """Keeps selections of one table up to ``capacity_bytes``; 0 keeps none."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Filter, tuple[Selection, int]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    def get_or(self, key: Filter, compute: Callable[[], Selection]) -> Selection:
        """What is kept for a filter, else what ``compute`` gives; two threads may both compute it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._hits += 1
                self._entries.move_to_end(key)
                return entry[0]
            self._misses += 1
        selection = compute()
        self._keep(key, selection)
        return selection

    def _keep(self, key: Filter, selection: Selection) -> None:
        size = selection.nbytes + _ENTRY_BYTES + _KEY_BYTES_PER_CHARACTER * len(repr(key))
        if size > self._capacity:
            return
        with self._lock:
            _, before = self._entries.pop(key, (None, 0))
            self._entries[key] = selection, size
            self._bytes += size - before
            while self._bytes > self._capacity:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._bytes -= dropped

    def stats(self) -> CacheStats:
        """Figures for metrics."""
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._entries), self._bytes)
