"""Real queries to measure with, the same ones each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from offline.data.prepared import Prepared

T = TypeVar("T")
_SPLITS = ("dev", "test", "train")


def probe_queries(prepared: Prepared, count: int) -> list[str]:
    """At most ``count`` different raw queries: judged ones (dev, test, train), filled up with unlabelled texts.

    Where a source has more than are wanted, they are taken at even distances, so that every part of it is met.
    """
    chosen: dict[str, None] = {}
    queries = prepared.queries.select(["text", "split"]).to_pylist()
    sources = [[query["text"] for query in queries if query["split"] == split] for split in _SPLITS]
    for source in [*sources, prepared.texts.column("text").to_pylist()]:
        fresh = [text for text in dict.fromkeys(source) if text.strip() and text not in chosen]
        chosen.update(dict.fromkeys(spread(fresh, count - len(chosen))))
    return list(chosen)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of them, at even distances."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]
