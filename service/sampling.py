"""Which requests a share is: decided by their ids alone, so that every service that asks the same way agrees."""

from __future__ import annotations

from hashlib import blake2b

_DIGITS = 16
_ALL = 1 << 64


def sampled(trace_id: str, share: float) -> bool:
    """Whether a trace is of the share.

    By its last 64 bits, as OpenTelemetry's ``TraceIdRatioBased`` does: a trace that a smaller share has, a greater one has too.

    Args:
        trace_id: 32 lowercase hexadecimal digits.
        share: 0 to 1.
    """
    return int(trace_id[-_DIGITS:], 16) < round(share * _ALL)


def sampled_by_name(request_id: str, share: float) -> bool:
    """The same for an id of any form: its hash stands for it, since callers may count their requests."""
    if share in (0.0, 1.0):
        return share == 1.0
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) < round(share * _ALL)
