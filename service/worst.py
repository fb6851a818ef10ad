"""The queries on which student and teacher agree least: what the next student should learn from."""

from __future__ import annotations

import heapq
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from snapshot.files import atomic_write

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


def write_worst(path: Path, found: str, most: int) -> None:
    """Write ``found`` with what the file holds: the worst of both, and at most so many, since that was found before a restart.

    For its owner alone: it is what users typed.

    Raises:
        OSError: the file cannot be read or written.
    """
    rows = {row["query"]: row for row in _rows(found)}
    for row in _rows(_held(path)):
        rows.setdefault(row["query"], row)
    worst = heapq.nsmallest(most, rows.values(), key=lambda row: row["cosine"])
    with atomic_write(path) as handle:
        os.fchmod(handle.fileno(), 0o600)
        handle.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in worst)


def _held(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _rows(lines: str) -> Iterator[dict[str, Any]]:
    """What is a row of ours; anything else is passed over."""
    for line in lines.split("\n"):  # not splitlines: texts may hold other ends of lines
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("query"), str) and isinstance(row.get("cosine"), float):
            yield row
