"""Which requests a share is: decided by their ids alone, so that every service that asks the same way agrees."""

from __future__ import annotations

from hashlib import blake2b

_DIGITS = 16
_ALL = 1 << 64


class Share:
    """A share of all requests; what a smaller one has, a greater one has too."""

    __slots__ = ("_bound",)

    def __init__(self, share: float) -> None:
        """``share``: 0 to 1."""
        self._bound = round(share * _ALL)

    def has_trace(self, trace_id: str) -> bool:
        """Whether a trace, 32 lowercase hexadecimal digits, is of it: by its last 64 bits, as ``TraceIdRatioBased`` does."""
        return int(trace_id[-_DIGITS:], 16) < self._bound

    def has_request(self, request_id: str) -> bool:
        """The same for an id of any form: its hash stands for it, since callers may count their requests."""
        return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) < self._bound
