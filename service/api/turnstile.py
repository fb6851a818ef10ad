"""Where a caller's API key is looked at: before a task is made for a request, and before its body is received."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from starlette.types import Scope

from service.errors import KeyRateError, KeyScopeError, KeyUnknownError
from service.keys.file import Permission
from service.keys.ring import Holder, KeyRing

_HOLDER = "scalingnote.key_holder"
_BEARER = b"bearer "


def charge(scope: Scope, items: int) -> None:
    """Of a request that has turned out to be several searches or texts: its key's rate pays for each of them."""
    holder: Holder | None = scope.get(_HOLDER)
    if holder is not None and holder.bucket is not None:
        holder.bucket.owe(items - 1)


def caller_name(scope: Scope) -> str | None:
    """Name of the key that let a request in; None where none was asked for, or none did."""
    holder: Holder | None = scope.get(_HOLDER)
    return None if holder is None else holder.key.name


class Turnstile:
    """Lets requests in by the keys of a ring. Used on the event loop only."""

    def __init__(self, ring: KeyRing, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._ring = ring
        self._now = now

    def admit(self, scope: Scope, permission: Permission) -> None:
        """Let a request in, once; its rate pays for one item.

        Raises:
            KeyUnknownError, KeyScopeError, KeyRateError: as they say.
        """
        if _HOLDER in scope:
            return
        holder = self._known(presented(scope["headers"]))
        key, counts = holder.key, holder.counts
        if key.expires_at is not None and key.expires_at <= self._now():
            counts["expired"].inc()
            raise KeyUnknownError(f"the key {key.name} has expired at {key.expires_at.isoformat()}; ask for a new one")
        if permission not in key.scopes:
            counts["scope"].inc()
            raise KeyScopeError(f"the key {key.name} does not allow to {permission}, only to {' and '.join(key.scopes)}")
        wait_ms = 0.0 if holder.bucket is None else holder.bucket.take()
        if wait_ms > 0.0:
            counts["rate_limited"].inc()
            raise KeyRateError(
                f"the key {key.name} allows {key.rate_per_second:g} searches or texts a second, {key.burst} at once", wait_ms
            )
        counts["admitted"].inc()
        scope[_HOLDER] = holder

    def _known(self, secret: bytes) -> Holder:
        holder = self._ring.find(secret) if secret else None
        if holder is None:
            self._ring.metrics.strangers["unknown" if secret else "missing"].inc()
            raise KeyUnknownError(
                "the key is none of those known here" if secret else "send a key: Authorization: Bearer KEY, or X-API-Key: KEY"
            )
        return holder


def presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that came along, empty without one. X-API-Key wins: Authorization may be meant for a proxy in front."""
    bearer = b""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            bearer = value[len(_BEARER) :].strip()
    return bearer
