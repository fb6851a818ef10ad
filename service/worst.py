"""The queries on which student and teacher agree least: what the next student should learn from."""

from __future__ import annotations

import heapq
import json
import threading
from typing import NamedTuple

MAX_CHARACTERS = 2000
"""``offline`` passes over longer lines of a query log."""


class Disagreement(NamedTuple):
    """A query, the cosine of its two vectors, and the share of the ten best documents that they have in common."""

    cosine: float
    query: str
    overlap: float


class WorstQueries:
    """At most so many different queries, those with the least cosine. Safe from several threads."""

    def __init__(self, most: int) -> None:
        """Start empty; ``most`` of 0 keeps nothing."""
        self._most = most
        self._lock = threading.Lock()
        self._heap: list[tuple[float, str, float]] = []  # by -cosine: the first is the one to go
        self._kept: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, found: Disagreement) -> bool:
        """Keep it if it is among the worst; whether it is kept from now on."""
        entry = (-found.cosine, found.query, found.overlap)
        with self._lock:
            if found.query in self._kept or len(found.query) > MAX_CHARACTERS or not found.query.strip():
                return False
            if len(self._heap) < self._most:
                heapq.heappush(self._heap, entry)
            elif self._heap and entry > self._heap[0]:
                _, dropped, _ = heapq.heapreplace(self._heap, entry)
                self._kept.discard(dropped)
            else:
                return False
            self._kept.add(found.query)
            return True

    def worst_first(self) -> list[Disagreement]:
        """All that is kept."""
        with self._lock:
            kept = list(self._heap)
        return [Disagreement(-key, query, overlap) for key, query, overlap in sorted(kept, reverse=True)]

    def jsonl(self, snapshot: str) -> str:
        """One object a line, the worst first, as ``python -m offline run --query-log FILE.jsonl`` reads them."""
        rows = (
            {"query": row.query, "cosine": round(row.cosine, 6), "overlap": round(row.overlap, 4), "snapshot": snapshot}
            for row in self.worst_first()
        )
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
