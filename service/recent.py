"""The latest different queries of users, kept in memory to judge the next snapshot by; never written anywhere."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

Tap = Callable[[str], object]

_OVERHEAD_BYTES = 160
"""Of an entry beside its text: key, link and slot of the dictionary."""


def digest(query: str) -> str:
    """What a log may say of a query: enough to tell two apart, not enough to read one."""
    return sha256(query.encode()).hexdigest()[:12]


class RecentQueries:
    """A ring of texts, bounded in entries and in bytes. Safe from several threads; ``note`` takes about a microsecond."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        """Start empty; ``max_entries`` of 0 keeps nothing."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._tap: Tap | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, query: str) -> None:
        """A user has asked this."""
        with self._lock:
            if query in self._kept:
                self._kept.move_to_end(query)
            elif self._max_entries:
                self._keep(query)
        tap = self._tap
        if tap is not None:
            tap(query)

    def latest(self, most: int) -> list[str]:
        """At most so many different queries, the latest first."""
        with self._lock:
            kept = list(self._kept)
        return kept[: -most - 1 : -1]

    @contextmanager
    def tapped(self, tap: Tap) -> Iterator[None]:
        """Let ``tap`` hear every query as it is asked, from the threads that answer them, for the block; one at a time."""
        self._tap = tap
        try:
            yield
        finally:
            self._tap = None

    def _keep(self, query: str) -> None:
        """Needs the lock; a text as large as all may be is not kept."""
        size = sys.getsizeof(query) + _OVERHEAD_BYTES
        if size > self._max_bytes:
            return
        self._kept[query] = size
        self.bytes += size
        while self.bytes > self._max_bytes or len(self._kept) > self._max_entries:
            self.bytes -= self._kept.popitem(last=False)[1]
