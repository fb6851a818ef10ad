"""Whether an answer is whole: every part of it of the snapshot that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_LEAST_SHARED = 0.8
"""Of the hits that a query has at rest; near ties may change places with the company that a query has in the tower."""


class Verdict(StrEnum):
    """What an answer is."""

    WHOLE = "whole"
    MIXED = "mixed"
    UNTOLD = "untold"  # it gave up what would tell


@dataclass(frozen=True)
class Judge:
    """Knows the snapshots that may answer.

    Attributes:
        marks: by id, what the texts in ``column`` of its documents begin with; an empty mark is none of the others.
        known: by query, the ids of its hits, the same in every one of the snapshots.
    """

    marks: Mapping[str, str]
    column: str
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def judge(self, query: str, body: bytes) -> tuple[str, Verdict]:
        """The snapshot that an answer names, and what it is."""
        answer = json.loads(body)
        named, hits = answer["snapshot"], answer["hits"]
        if named not in self.marks:
            return named, Verdict.MIXED
        if not hits or any(not hit["fields"] for hit in hits):
            return named, Verdict.UNTOLD
        if any(self._owner(hit["fields"][self.column]) != named for hit in hits):
            return named, Verdict.MIXED
        if query in self.known and answer["degraded"] is None and not self._are_hits_of(query, hits):
            return named, Verdict.MIXED
        return named, Verdict.WHOLE

    def _owner(self, text: str) -> str:
        """Whose document it is; the longest mark wins, so that the empty one is left for what bears none."""
        fitting = [(len(mark), snapshot) for snapshot, mark in self.marks.items() if text.startswith(mark)]
        return max(fitting)[1]

    def _are_hits_of(self, query: str, hits: Sequence[Mapping[str, object]]) -> bool:
        expected = set(self.known[query])
        return len(expected & {str(hit["id"]) for hit in hits}) >= _LEAST_SHARED * len(expected)
