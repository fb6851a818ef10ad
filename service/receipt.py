"""Bodies that have begun to arrive and are not there yet: how much memory they take together, over all connections.

One connection is bounded by the longest body, and sixteen thousand of them are not bounded by that. Where there is no room
for more, the body that has been on its way for longest is given up: whoever sends at once is hardly ever the one, and whoever
only holds memory is the first.
"""

from __future__ import annotations

from typing import Protocol

from service.errors import BodiesError, ServiceError

_MUCH_BYTES = 16 << 20
"""Of memory, that is worth asking the allocator for."""


class Receiving(Protocol):
    """A connection on which a body arrives."""

    def refuse(self, error: ServiceError, cause: str) -> None:
        """Close it with an answer."""


class Receipt:
    """Bytes by connection, in the order in which bodies began. Used on the event loop only."""

    def __init__(self, most_bytes: int, longest_bytes: int) -> None:
        """Start empty.

        Args:
            most_bytes: of all bodies together.
            longest_bytes: of one body; what is longer is thrown away as it comes.
        """
        self._most_bytes = max(most_bytes, longest_bytes)
        self._longest_bytes = longest_bytes
        self._held: dict[Receiving, int] = {}
        self._peak = 0
        self.bytes = 0

    def hold(self, connection: Receiving, size: int) -> None:
        """So much of a body is there, and it has not ended."""
        size = min(size, self._longest_bytes)
        self.bytes += size - self._held.get(connection, 0)
        self._held[connection] = size
        self._peak = max(self._peak, self.bytes)
        while self.bytes > self._most_bytes:
            oldest = next(iter(self._held))
            self.release(oldest)
            oldest.refuse(BodiesError("more is being sent here than there is memory for; send the body at once"), "bodies")

    def release(self, connection: Receiving) -> None:
        """It has ended, or is of no use any more."""
        self.bytes -= self._held.pop(connection, 0)

    def ebbed(self) -> bool:
        """Whether much memory was taken, and most of it is not any more; says so once."""
        if self._peak < _MUCH_BYTES or self.bytes > self._peak // 4:
            return False
        self._peak = self.bytes
        return True
