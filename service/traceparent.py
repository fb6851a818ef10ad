"""The header ``traceparent`` (W3C Trace Context, level 1 and 2), read and written without anything that traces."""

from __future__ import annotations

import re
from typing import NamedTuple

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?")
_SAMPLED = 1


class Traceparent(NamedTuple):
    """Who asked.

    Attributes:
        trace_id: 32 lowercase hexadecimal digits, not all zero.
        parent_id: the caller's span, 16 of them, not all zero.
        sampled: whether the caller records its trace.
    """

    trace_id: str
    parent_id: str
    sampled: bool


class Span(NamedTuple):
    """A span of ours.

    Attributes:
        trace_id: 32 lowercase hexadecimal digits.
        span_id: 16 of them.
        parent_id: the caller's span; None where the trace begins here.
    """

    trace_id: str
    span_id: str
    parent_id: str | None

    @property
    def traceparent(self) -> str:
        """The header that says so; a span is made of what is recorded."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def parse_traceparent(header: str) -> Traceparent | None:
    """What the header says; None where it breaks the rules, as these demand.

    A version that is not known yet may have more after its flags; that is not looked at.
    """
    found = _HEADER.fullmatch(header.strip(" \t"))
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return Traceparent(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))
