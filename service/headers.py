"""Headers by which browsers know that an answer is neither a page nor a script, and may not be framed or kept; and one by which
the service knows that no user asks.
"""

from __future__ import annotations

from collections.abc import Sequence

Header = tuple[bytes, bytes]

SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every answer that is no page; pages have a policy of their own (``service.api.page``)."""

SYNTHETIC = "X-Synthetic-Request"
"""Sent by who is no user: such searches are answered and counted as any other, and nothing is learned from what they ask for."""

_DEFAULTS = (*SAFE, (b"cache-control", b"no-store"))


def missing(headers: Sequence[Header]) -> list[Header]:
    """Of these and ``cache-control: no-store``, those that an answer does not have already."""
    given = {name.lower() for name, _ in headers}
    return [header for header in _DEFAULTS if header[0] not in given]
